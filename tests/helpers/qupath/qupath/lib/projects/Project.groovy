package qupath.lib.projects

import qupath.lib.images.ImageData

class Project {
    File file
    List<Entry> entries

    Project(File file, List kept) {
        this.file = file
        entries = kept.collect { new Entry(kept: it) }
    }

    List<Entry> getImageList() { entries.asImmutable() }

    Entry addImage(URI builder) {
        entries << new Entry(kept: [uri: builder.toString(), objects: []])
        entries.last()
    }

    void syncChanges() { file.text = groovy.json.JsonOutput.toJson(entries*.kept) }
}

class Entry {
    Map kept

    Collection<URI> getURIs() { [new URI(kept.uri)] }

    void setImageName(String name) { kept.name = name }

    ImageData readImageData() { new ImageData(kept.objects) }

    void saveImageData(ImageData data) {
        kept.type = data.imageType.toString()
        kept.objects = data.hierarchy.objects*.kept
        kept.read = kept.objects*.file.unique(false)
    }
}
