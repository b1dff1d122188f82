package tlog

import "fmt"

// Error is a failed verification: where, and what is wrong there.
type Error struct {
	Where string // "checkpoint", "record 17 (lane 1, sn 4)", "tile/0/x001/234, hash 5"
	What  string
	Err   error // cause, may be nil
}

// Error returns the place, what is wrong and the cause.
func (e *Error) Error() string {
	if e.Err != nil {
		return e.Where + ": " + e.What + ": " + e.Err.Error()
	}
	return e.Where + ": " + e.What
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func wrong(where, format string, args ...any) *Error {
	return &Error{Where: where, What: fmt.Sprintf(format, args...)}
}

func failed(where, what string, err error) *Error { return &Error{Where: where, What: what, Err: err} }
