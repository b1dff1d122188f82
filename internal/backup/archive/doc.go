// Package archive is the form of a backup: an age file (age-encryption.org/v1)
// that holds gzip-compressed JSON Lines.
//
// The first line is a Head, then for each table a line that names it and its
// columns, followed by its rows as arrays, and a last line with the number of
// rows and the SHA-256 of all lines before. What has no such end, or another sum,
// is no backup: it was cut off, or changed by somebody who has the key.
//
// It is pure: no database, no network. Anybody may import it.
package archive
