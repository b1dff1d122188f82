// Package openapi reads the operations out of an OpenAPI document, 3.0 or 3.1,
// in JSON or YAML.
//
// It reads only what a tool needs (paths, methods, parameters, what a body
// holds) and that with limits, instead of resolving the whole document as the
// libraries for it do: a document comes from a stranger, and resolving all of it
// takes time and memory that the document decides on. It opens nothing:
//
//   - A reference to another document is refused, by file and by URL alike.
//   - A reference is followed within the document to a fixed depth; what refers
//     to itself ends there, and policy sees nothing beneath that.
//   - Names that are there twice, text that is not UTF-8, and more operations,
//     bytes or levels than the limits are refused.
//
// It is pure. Only connections may import it.
package openapi
