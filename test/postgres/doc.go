// Package postgres starts a PostgreSQL server that asks for passwords, for tests
// of credentials. The one that other tests share may let everybody in.
package postgres
