// Package content does something about what is found in content that passes:
// it notes, replaces or ends it, in a whole text, in a text that comes in
// pieces, and in event streams, where one text is spread over many events. It is
// pure, like package inspection, and may be imported by whoever may import that.
//
// What it promises:
//
//   - What is to be replaced or blocked does not pass, however the content was
//     cut; what is only noted passes at once and untouched.
//   - Nothing else is changed. JSON that fits into memory stays JSON.
//   - What is held is bounded in bytes: some hundred of a text, more only of a long
//     word or of what may be a secret.
package content
