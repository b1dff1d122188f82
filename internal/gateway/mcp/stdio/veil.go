package stdio

import (
	"bytes"
	"encoding/json/jsontext"
	"fmt"
	"slices"
	"unicode/utf16"

	"github.com/countersign/countersign/internal/gateway/mcp/wire"
	"github.com/countersign/countersign/internal/secrets"
)

// veil keeps a child that repeats the credentials in its environment from
// showing them to the agent: asterisks stand instead, as many, as they do in
// the answers of upstreams over HTTP. What a child says is JSON, so the ways in
// which JSON may write a value are covered too.
type veil struct {
	forms []secrets.Value // longest first
}

// add covers the value v from now on.
func (l *veil) add(v secrets.Value) {
	for _, form := range written(v.Expose()) {
		l.forms = append(l.forms, secrets.NewValue(form))
		clear(form)
	}
	slices.SortFunc(l.forms, func(a, b secrets.Value) int { return b.Len() - a.Len() })
}

// wipe forgets all values. Nothing may be covered afterwards.
func (l *veil) wipe() {
	for _, f := range l.forms {
		f.Wipe()
	}
	l.forms = nil
}

// cover overwrites in b what must not be seen and reports whether there was any.
func (l *veil) cover(b []byte) (found bool) {
	for _, f := range l.forms {
		form := f.Expose()
		for rest := b; ; {
			i := bytes.Index(rest, form)
			if i < 0 {
				break
			}
			for j := range form {
				rest[i+j] = '*'
			}
			found, rest = true, rest[i+len(form):]
		}
	}
	return found
}

// written returns value as it stands alone and inside a JSON string of the
// usual encoders: with the fewest escapes, with those for HTML, with escaped
// slashes, and in ASCII alone.
func written(value []byte) [][]byte {
	forms := [][]byte{bytes.Clone(value)}
	add := func(form []byte) {
		if !slices.ContainsFunc(forms, func(f []byte) bool { return bytes.Equal(f, form) }) {
			forms = append(forms, form)
		}
	}
	quoted, err := jsontext.AppendQuote(nil, value)
	if err != nil { // not valid UTF-8: cannot stand in JSON as it is
		return forms
	}
	plain := quoted[1 : len(quoted)-1]
	add(plain)
	add(bytes.ReplaceAll(plain, []byte("/"), []byte(`\/`)))
	for _, digits := range []string{"%04x", "%04X"} {
		html, ascii := []byte(nil), []byte(nil)
		for _, c := range string(plain) {
			escaped := fmt.Appendf(nil, `\u`+digits, c)
			switch {
			case c > 0xffff:
				hi, lo := utf16.EncodeRune(c)
				html, ascii = append(html, string(c)...), fmt.Appendf(ascii, `\u`+digits+`\u`+digits, hi, lo)
			case c >= 0x7f:
				html, ascii = append(html, string(c)...), append(ascii, escaped...)
			case c == '<' || c == '>' || c == '&':
				html, ascii = append(html, escaped...), append(ascii, byte(c))
			default:
				html, ascii = append(html, byte(c)), append(ascii, byte(c))
			}
		}
		add(html)
		add(ascii)
	}
	return forms
}

// covered returns a message of the child without its credentials. One that is
// no message any more without them is replaced by an error if it was an answer,
// and dropped if not.
func (c *child) covered(m wire.Message) (wire.Message, bool) {
	if !c.veil.cover(m.Raw) {
		return m, true
	}
	c.t.o.Logger.Warn("an MCP server's process repeated a credential; it was covered", "connection", c.key.conn)
	again, err := wire.Scan(m.Raw)
	if err == nil {
		return again, true
	}
	if m.Kind != wire.Response {
		return m, false
	}
	again, err = wire.Scan(wire.AppendError(nil, m.ID.Of(m.Raw), wire.CodeInternal, "The server's answer held a credential and cannot be shown.", nil))
	return again, err == nil
}
