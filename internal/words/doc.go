// Package words says calls in plain words to people.
//
// A template is a sentence with holes for arguments; it is checked against the
// schema of the tool it is for when it is declared, and filled when somebody has
// to decide. What comes from a call can fill a hole and nothing else: it cannot
// make another hole, end the line, turn around what follows, or hide.
//
// It is pure: no state, no I/O. Any room may import it; it imports inert.
package words
