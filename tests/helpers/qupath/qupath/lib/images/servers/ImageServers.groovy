package qupath.lib.images.servers

class ImageServers {
    static Server buildServer(URI uri, String... arguments) { new Server(uri: uri) }
}

class Server {
    URI uri

    Collection<URI> getURIs() { [uri] }

    URI getBuilder() { uri }
}
