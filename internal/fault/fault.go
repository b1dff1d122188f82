package fault

import (
	"errors"
	"fmt"
)

// Kind classifies an error by what its receiver can do about it.
type Kind int

// The kinds. The zero value is Internal, so a forgotten kind leaks nothing.
const (
	Internal        Kind = iota // our defect or an unexplained failure: nothing to do but report it
	Invalid                     // the request is malformed or contradicts itself: change it
	Unauthenticated             // who is asking is unknown: sign in or present a valid credential
	Denied                      // who is asking may not: ask for the right
	NotFound                    // no such thing, or none the asker may see
	Conflict                    // the thing is in another state than the request assumes: look again
	TooLarge                    // over a limit: send less
	Limited                     // too many requests: wait
	Unavailable                 // we cannot now, and failed closed: try again
	Upstream                    // what we called failed or answered garbage
	Unsupported                 // content type, method or protocol version that we do not speak
)

// Error is an error that may be shown.
type Error struct {
	Kind    Kind
	Code    string // stable, lower_snake_case, for programs
	Message string // for people: what happened and what to do; never a secret
	cause   error
	base    *Error
}

// New returns a sentinel. Message is a sentence without a trailing period.
func New(kind Kind, code, message string) *Error {
	return &Error{Kind: kind, Code: code, Message: message}
}

// Error returns the message, followed by the cause if there is one.
func (e *Error) Error() string {
	if e.cause != nil {
		return e.Message + ": " + e.cause.Error()
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is the sentinel that e was derived from.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && (e == t || (e.base != nil && e.base == t) || (e.base == nil && e.Code == t.Code && e.Kind == t.Kind))
}

// With returns e with a cause. The cause is for logs; Public never shows it.
func (e *Error) With(cause error) *Error {
	c := *e
	c.cause, c.base = cause, e.root()
	return &c
}

// Say returns e with a message of its own for this occurrence.
func (e *Error) Say(format string, args ...any) *Error {
	c := *e
	c.Message, c.base = fmt.Sprintf(format, args...), e.root()
	return &c
}

func (e *Error) root() *Error {
	if e.base != nil {
		return e.base
	}
	return e
}

var internal = New(Internal, "internal", "internal error; the server's log has the details under this request id")

// Public returns what of err may be shown: its first fault without the cause,
// or "internal" if it has none.
func Public(err error) *Error {
	var e *Error
	if !errors.As(err, &e) {
		return internal
	}
	return &Error{Kind: e.Kind, Code: e.Code, Message: e.Message, base: e.root()}
}

// KindOf returns the kind of err's first fault, Internal if it has none.
func KindOf(err error) Kind { return Public(err).Kind }

// Status returns the HTTP status (RFC 9110) of a kind.
func (k Kind) Status() int {
	switch k {
	case Invalid:
		return 400
	case Unauthenticated:
		return 401
	case Denied:
		return 403
	case NotFound:
		return 404
	case Conflict:
		return 409
	case TooLarge:
		return 413
	case Limited:
		return 429
	case Unavailable:
		return 503
	case Upstream:
		return 502
	case Unsupported:
		return 415
	default:
		return 500
	}
}
