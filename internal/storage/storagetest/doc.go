// Package storagetest runs a test on every engine. Only tests may import it.
//
// SQLite always runs. PostgreSQL runs when COUNTERSIGN_TEST_POSTGRES holds the
// URL of a server whose user may create databases; each test gets one of its
// own, dropped at its end.
package storagetest
