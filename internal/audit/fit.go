package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"slices"
)

// How events are made to fit. With the shortest strings of all, lists of
// maxList, a detail of keepDetail and maxPayloads commitments, a record stays
// well below MaxRecord, so fitting always ends.
const (
	keepDetail  = 8 << 10 // bytes of a detail that stay in an event that is too large
	keepMember  = 256     // bytes of one of its members
	maxPayloads = 32      // payloads of one event that keep a body
	maxList     = 16      // elements of a list, in the last resort
	digestLen   = len("sha256:") + 2*sha256.Size
)

// detailName names the payload that an event's detail moves to.
const detailName = "detail"

// fit serialises e.ev, whose strings are redacted already, in at most MaxRecord
// bytes. What is too large for that moves to a payload (a detail, if beside
// allows it) or is cut with a digest of the whole. It never fails for size.
func (l *Log) fit(e *entry, beside bool) error {
	var err error
	if e.record, err = canonical(e.ev); err != nil || len(e.record) <= MaxRecord {
		return err
	}
	if len(e.ev.Detail) > keepDetail {
		if err := l.fitDetail(e, beside); err != nil {
			return err
		}
		if e.record, err = canonical(e.ev); err != nil || len(e.record) <= MaxRecord {
			return err
		}
	}
	for _, step := range []struct{ text, list int }{{2048, 256}, {512, 64}, {128, maxList}, {0, maxList}} {
		shortenLists(&e.ev, step.list)
		eachString(&e.ev, func(s string) string { return shorten(s, step.text) })
		if e.record, err = canonical(e.ev); err != nil || len(e.record) <= MaxRecord {
			return err
		}
	}
	return ErrEvent.Say("the event is larger than %d bytes whatever is cut from it", MaxRecord)
}

// fitDetail keeps the small members of a detail and moves the whole beside the
// event, or where it cannot stand beside it says what its digest was.
func (l *Log) fitDetail(e *entry, beside bool) error {
	whole := e.ev.Detail
	cut := map[string]any{"bytes": len(whole)}
	if beside {
		out, c, err := l.capture([]Payload{{Name: detailName, Body: whole}})
		if err != nil {
			return err
		}
		out[0].owner = l.keys.owner(e.ev.Agent, "")
		e.payloads, e.ev.Payloads = append(e.payloads, out...), append(slices.Clone(e.ev.Payloads), c...)
		cut["payload"] = detailName
	} else {
		cut["sha256"] = hexSum(whole)
	}
	kept, err := smallMembers(whole)
	if err != nil {
		return err
	}
	kept["cut"] = cut
	b, err := json.Marshal(kept)
	if err != nil {
		return ErrEvent.With(err)
	}
	e.ev.Detail = b
	if err := e.ev.Detail.Canonicalize(); err != nil {
		return ErrEvent.With(err)
	}
	return nil
}

// smallMembers returns those members of an object that are small, in order, as
// many as there is room for.
func smallMembers(object jsontext.Value) (map[string]any, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(object))
	if _, err := dec.ReadToken(); err != nil {
		return nil, ErrEvent.With(err)
	}
	out, left := map[string]any{}, keepDetail-keepMember // room for what is said of the cut
	for dec.PeekKind() == '"' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, ErrEvent.With(err)
		}
		key := name.String()
		value, err := dec.ReadValue()
		if err != nil {
			return nil, ErrEvent.With(err)
		}
		// A character of a name takes at most six bytes as an escape.
		if n := 6*len(key) + len(value); n <= keepMember && n <= left {
			out[key] = value.Clone()
			left -= n + len(`"":,`)
		}
	}
	return out, nil
}

// shorten cuts s to about n bytes, with a digest of the whole s at its end.
func shorten(s string, n int) string {
	if len(s) <= max(n, digestLen) {
		return s
	}
	digest := "sha256:" + hexSum([]byte(s))
	if n <= 2*digestLen {
		return digest
	}
	return cut(s, n-digestLen-len("…")) + "…" + digest
}

// shortenLists cuts lists to n elements, the last of which says how many are
// missing and what the digest of the whole list was.
func shortenLists(ev *Event, n int) {
	ev.Labels, ev.Objects = shortenList(ev.Labels, n), shortenList(ev.Objects, n)
	if d := ev.Decision; d != nil {
		c := *d
		c.Policies, c.Grants = shortenList(c.Policies, n), shortenList(c.Grants, n)
		ev.Decision = &c
	}
	if chain := ev.OnBehalfOf; len(chain) > n {
		names := make([]string, len(chain))
		for i, a := range chain {
			names[i] = a.ID + " " + a.Name
		}
		rest := more(names, n-1)
		ev.OnBehalfOf = append(slices.Clone(chain[:n-1]), Actor{Kind: chain[n-1].Kind, Name: rest})
	}
}

func shortenList(list []string, n int) []string {
	if len(list) <= n {
		return list
	}
	return append(slices.Clone(list[:n-1]), more(list, n-1))
}

func more(list []string, kept int) string {
	h := sha256.New()
	for _, s := range list {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return fmt.Sprintf("%d more, sha256:%x", len(list)-kept, h.Sum(nil))
}

// bound joins payloads beyond maxPayloads into one, of which the commitment
// alone is kept.
func bound(payloads []Payload) []Payload {
	if len(payloads) <= maxPayloads {
		return payloads
	}
	out := slices.Clone(payloads[:maxPayloads-1])
	var rest bytes.Buffer
	for _, p := range payloads[maxPayloads-1:] {
		fmt.Fprintf(&rest, "%d:%s%d:%s", len(p.Name), p.Name, len(p.Body), p.Body)
	}
	return append(out, Payload{Name: "more", Body: rest.Bytes(), Level: Digest})
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
