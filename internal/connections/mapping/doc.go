// Package mapping says how the documents of a search engine are read: where an
// engine keeps what, and how it is asked.
//
// It promises:
//
//   - What an agent asks for only ever becomes a whole value of a request: a
//     JSON string, number or list, a parameter of a URL, a segment of a path. It
//     cannot change what a request consists of.
//   - A path into an answer (hits.items, meta.readers) reads members and list
//     elements and nothing else; an answer that is nested too deep, or has too
//     many results, is refused.
//
// It is pure: no store, no network. Rooms that know connections may import it.
package mapping
