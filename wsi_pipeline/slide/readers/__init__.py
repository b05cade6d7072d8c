"""The two libraries that decode slides, behind one face; nothing else imports them.

Support for another format is a class with the methods of `protocol.Reader`, and its place in
`choose.READERS`.
"""
