// Package manifest applies resources that are kept as files: YAML documents
// with kind, name and spec, and Cedar policies in .cedar files beside them.
//
// It promises:
//
//   - Files are read strictly. Unknown and duplicate keys, wrong types, anchors
//     and aliases are refused, and every problem names file, line, column and
//     field. A problem found while reading or planning means that nothing is
//     changed.
//   - What is applied is applied in one transaction across the rooms, each
//     change with its event. Only when new connections or operations are among the files are
//     there two: connections and what they need first; then, when the tools of
//     the new connections are known, the tools' effects, grants and policies,
//     which can only be checked against tools that exist. The answer says so.
//   - Applying twice changes nothing. Nothing is deleted that a document does
//     not name with "state: absent".
//   - A connection's operations may be declared by an OpenAPI document that is
//     sent beside the files. It is bounded and read as an import is; the plan says
//     what changes of which operation, and applying pins it.
//   - Secrets' values are never in a file: a document says where the person's
//     machine finds the value, and the value travels beside the files.
//   - Export writes the same format back, always in the same order.
//
// Only the server may import it.
package manifest
