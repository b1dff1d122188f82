package connections

import (
	"errors"
	"net/url"
	"strings"

	"github.com/countersign/countersign/internal/connections/mapping"
)

// checkEngine holds a retrieval connection to an address that its engine has.
func checkEngine(c *Connection) error {
	switch {
	case len(c.Command) > 0:
		return bad("command", "a retrieval connection has no command")
	case c.Dialect == Embedded && c.URL != "":
		return bad("url", "the documents of an embedded connection are here; leave it out")
	case c.Dialect == Embedded && c.AllowPrivate:
		return bad("allow_private", "the documents of an embedded connection are here; leave it out")
	case c.Dialect == Embedded:
		return nil
	case c.URL == "":
		return bad("url", "a retrieval connection needs the address of its engine")
	case c.Dialect != Postgres:
		clean, err := checkURL(c.URL, c.AllowPrivate)
		c.URL = clean
		return err
	}
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || len(c.URL) > maxURL || u.Scheme != "postgres":
		return bad("url", "must be postgres://HOST:PORT/DATABASE")
	case u.User != nil:
		return bad("url", "must not hold a user or password; put USER:PASSWORD in a secret")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "" || u.Hostname() == "":
		return bad("url", "must be postgres://HOST:PORT/DATABASE and nothing else")
	case len(u.Path) < 2 || strings.Contains(u.Path[1:], "/") || u.RawPath != "":
		return bad("url", "names no database: postgres://HOST:PORT/DATABASE")
	}
	return checkHost(u, c.AllowPrivate)
}

// checkRetrieval holds the mapping of a retrieval connection to its engine.
func checkRetrieval(c *Connection) error {
	switch {
	case c.Kind != Retrieval && c.Retrieval != nil:
		return bad("retrieval", "only a retrieval connection has a mapping")
	case c.Kind != Retrieval:
		return nil
	case c.Dialect == Embedded && c.Retrieval != nil:
		return bad("retrieval", "the documents of an embedded connection say themselves what they are; leave it out")
	case c.Dialect == Embedded && (c.Secret != "" || c.Auth != AuthNone):
		return bad("secret", "the documents of an embedded connection are here; leave it out")
	case c.Dialect == Postgres && c.Secret != "" && c.Auth != AuthBasic:
		return bad("auth", "postgres signs in as basic: the secret is USER:PASSWORD")
	case c.Dialect == Embedded:
		return nil
	case c.Retrieval == nil:
		return bad("retrieval", "say where the engine keeps what: retrieval.fields")
	}
	if err := c.Retrieval.Check(c.Dialect); err != nil {
		at := "retrieval"
		if e, ok := errors.AsType[*mapping.Error](err); ok {
			return bad(at+"."+e.Field, "%s", e.Message)
		}
		return bad(at, "%s", err.Error())
	}
	return nil
}
