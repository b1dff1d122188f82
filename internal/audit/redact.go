package audit

import (
	"bytes"
	"encoding/json/jsontext"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/id"
)

// maxString bounds every string of an event, in bytes; what is longer is cut,
// with a digest. maxScan is how much of one is looked at for that.
const (
	maxString = 8 << 10
	maxScan   = 1 << 20
)

// maxClient bounds Event.Client, in bytes.
const maxClient = 200

// eachString replaces every string of ev that can hold foreign text by
// f(string). Nothing ev points to is shared with the caller's event afterwards.
func eachString(ev *Event, f func(string) string) {
	for _, s := range []*string{
		(*string)(&ev.Type), &ev.Agent, &ev.Owner, &ev.Team, &ev.Stage, &ev.Credential, &ev.Remote, &ev.Client, &ev.Run, &ev.Call,
		&ev.Connection, &ev.Tool, &ev.Effect, &ev.Object, &ev.Reason,
	} {
		*s = f(*s)
	}
	ev.Digest = digestOr(ev.Digest, f)
	eachActor(&ev.Actor, f)
	ev.OnBehalfOf = append([]Actor(nil), ev.OnBehalfOf...)
	for i := range ev.OnBehalfOf {
		eachActor(&ev.OnBehalfOf[i], f)
	}
	ev.Labels, ev.Objects = eachOf(ev.Labels, f), eachOf(ev.Objects, f)
	if ev.Decision != nil {
		d := *ev.Decision
		d.Code, d.Effect, d.Reason, d.Version = f(d.Code), f(d.Effect), f(d.Reason), digestOr(d.Version, f)
		d.Policies, d.Grants, d.Shadow = eachOf(d.Policies, f), eachOf(d.Grants, f), eachOf(d.Shadow, f)
		ev.Decision = &d
	}
	if ev.Outcome != nil {
		o := *ev.Outcome
		o.Status, o.Error, o.Digest = f(o.Status), f(o.Error), digestOr(o.Digest, f)
		if o.Usage != nil {
			u := *o.Usage
			u.Model, u.Currency, u.Priced = f(u.Model), f(u.Currency), f(u.Priced)
			o.Usage = &u
		}
		ev.Outcome = &o
	}
}

func eachActor(a *Actor, f func(string) string) {
	a.Kind, a.ID, a.Name = ActorKind(f(string(a.Kind))), f(a.ID), f(a.Name)
}

func eachOf(in []string, f func(string) string) []string {
	if len(in) == 0 {
		return nil
	}
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = f(s)
	}
	return out
}

// clean makes s storable on every engine: valid UTF-8, no NUL, bounded.
func clean(s string) string { return cut(valid(s), maxString) }

// valid makes s UTF-8 without NUL.
func valid(s string) string {
	if strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(s, "\x00", "\uFFFD")
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// cut shortens s to at most n bytes without splitting a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

// redactEvent cleans ev and replaces every secret in it. The usual event holds
// none, so all its strings are scanned in one pass, and one by one only when
// that pass found something.
func (l *Log) redactEvent(ev *Event) error {
	var all bytes.Buffer
	all.Grow(512)
	long := false
	eachString(ev, func(s string) string {
		s = valid(cut(s, maxScan))
		long = long || len(s) > maxString
		if !exempt(s) {
			all.WriteString(s)
			all.WriteByte('\n')
		}
		return s
	})
	ev.Client = cut(ev.Client, maxClient)
	if len(ev.Detail) > 0 {
		ev.Detail = bytes.Clone(ev.Detail)
		if err := ev.Detail.Canonicalize(); err != nil {
			return ErrEvent.Say("the event's detail is not valid JSON").With(err)
		}
		if ev.Detail.Kind() != '{' {
			return ErrEvent.Say("the event's detail must be a JSON object")
		}
		all.Write(ev.Detail)
		all.WriteByte('\n')
		if _, err := mapStrings(ev.Detail, func(s string) string {
			all.WriteString(s)
			all.WriteByte('\n')
			return s
		}); err != nil {
			return err
		}
	}
	if !bytes.Equal(l.o.Redactor.Redact(all.Bytes()), all.Bytes()) {
		if err := l.redactEach(ev); err != nil {
			return err
		}
		long = true // what was put in a secret's place may be longer
	}
	if long { // cut after redaction: a secret on the border would leave its first half
		eachString(ev, func(s string) string { return shorten(s, maxString) })
	}
	return nil
}

func (l *Log) redactEach(ev *Event) error {
	one := func(s string) string {
		if s == "" || exempt(s) {
			return s
		}
		return valid(string(l.o.Redactor.Redact([]byte(s))))
	}
	eachString(ev, one)
	if len(ev.Detail) == 0 {
		return nil
	}
	detail, err := mapStrings(ev.Detail, one)
	if err != nil {
		return err
	}
	detail = l.o.Redactor.Redact(detail)
	if !detail.IsValid() || detail.Kind() != '{' {
		detail = jsontext.Value(`{"redacted":true}`) // better nothing than a secret
	}
	ev.Detail = detail
	return nil
}

// digestOr leaves a SHA-256 in a field made for one alone: it is as random as
// a secret, and it is ours.
func digestOr(s string, f func(string) string) string {
	if len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" {
		return s
	}
	return f(s)
}

// kinds are the identifiers that events link by.
var kinds = []id.Kind{id.Event, id.Call, id.Run, id.User, id.Team, id.Agent, id.Key, id.Token, id.Connection, id.Tool,
	id.Policy, id.Grant, id.Secret, id.Finding, id.Approval, holdID}

// exempt reports whether s is one of our own identifiers: made of random bits,
// it can look like a secret, and links between events must survive.
func exempt(s string) bool {
	kind, _, ok := strings.Cut(s, "_")
	return ok && slices.Contains(kinds, id.Kind(kind)) && id.Is(id.Kind(kind), s)
}

// mapStrings rewrites every string of a JSON value, names included.
func mapStrings(v jsontext.Value, f func(string) string) (jsontext.Value, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(v))
	var out bytes.Buffer
	enc := jsontext.NewEncoder(&out, jsontext.AllowDuplicateNames(true))
	for {
		t, err := dec.ReadToken()
		if errors.Is(err, io.EOF) {
			return bytes.TrimSpace(out.Bytes()), nil
		}
		if err != nil {
			return nil, ErrEvent.With(err)
		}
		if t.Kind() == '"' {
			t = jsontext.String(f(t.String()))
		}
		if err := enc.WriteToken(t); err != nil {
			return nil, ErrEvent.With(err)
		}
	}
}
