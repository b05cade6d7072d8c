package qupath.lib.projects

// Stand-ins for what make-project.groovy calls of QuPath: they keep a project as plain JSON.
class ProjectIO {
    static String getProjectExtension(boolean withDot) { (withDot ? '.' : '') + 'qpproj' }

    static Project loadProject(File file, Class type) {
        new Project(file, new groovy.json.JsonSlurper().parse(file))
    }
}
