package qupath.lib.io

import java.nio.file.Path
import qupath.lib.images.PathObject

class PathIO {
    static List<PathObject> readObjects(Path path) {
        new groovy.json.JsonSlurper().parse(path.toFile()).features.collect {
            def about = it.properties
            new PathObject(kept: [
                file: path.fileName.toString(),
                kind: about.objectType,
                name: about.classification?.name,
                measured: (about.measurements instanceof Map) ?
                    about.measurements.keySet().toList() : about.measurements*.name ?: [],
            ])
        }
    }
}
