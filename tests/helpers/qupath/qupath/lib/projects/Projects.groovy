package qupath.lib.projects

class Projects {
    static Project createProject(File file, Class type) { new Project(file, []) }
}
