package qupath.lib.images

class ImageData {
    enum ImageType { BRIGHTFIELD_H_E, OTHER }

    ImageType imageType = ImageType.OTHER
    Hierarchy hierarchy

    ImageData(List kept) { hierarchy = new Hierarchy(objects: kept.collect { new PathObject(kept: it) }) }
}

class Hierarchy {
    List<PathObject> objects

    Collection<PathObject> getAllObjects(boolean withRoot) { objects.toList() }

    Collection<PathObject> getAnnotationObjects() { objects.findAll { it.kept.kind == 'annotation' } }

    void removeObjects(Collection<PathObject> these, boolean keepChildren) { objects.removeAll(these) }

    boolean addObjects(Collection<PathObject> these) { objects.addAll(these) }
}

class PathObject {
    Map kept

    Map getPathClass() { kept.name == null ? null : new Named(kept.name) }

    Measurements getMeasurementList() { new Measurements(names: kept.measured) }
}

class Named extends HashMap {
    Named(String name) { put('name', name) }

    String getName() { get('name') }
}

class Measurements {
    List<String> names
}
