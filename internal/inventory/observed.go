package inventory

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

// The kinds of what is observed.
const (
	KindAgent      = "agent"      // an agent that called
	KindCaller     = "caller"     // somebody at a door whose credential is no agent's
	KindConnection = "connection" // asked for by name
	KindTool       = "tool"       // called, asked for, or offered by its upstream
	KindModel      = "model"      // asked for, or said by an answer
	KindSecret     = "secret"     // reported as leaked, used as a canary, or seen in content
	KindNetwork    = "network"    // an agent called from it
	KindHost       = "host"       // asked for through the proxy, and refused
)

// Kinds lists them, in the order in which they are shown.
var Kinds = []string{KindAgent, KindCaller, KindConnection, KindTool, KindModel, KindSecret, KindNetwork, KindHost}

// Kinds of rows that are no things.
const (
	kindLog  = "log"   // of the whole log: since when it is read, and until when
	kindGone = "gone"  // when something was deleted
	kindMore = "more/" // names that were left out, by who showed them
)

// longestName bounds a name that somebody else chose, in bytes.
const longestName = 200

// sighting is one thing that an event shows.
type sighting struct {
	kind, name string
	source     string // who showed it
	passed     bool   // it was let through
	times      int64
}

// shown returns what an event shows. It only reads the event.
func shown(ev audit.Event) []sighting {
	switch ev.Type {
	case audit.CallIntent, audit.CallDenied, audit.CallHeld:
		out := calling(ev, ev.Type == audit.CallIntent)
		if ev.Connection != "" && ev.Tool != "" {
			out = append(out, sighting{kind: KindTool, name: ev.Connection + "/" + ev.Tool, passed: ev.Type == audit.CallIntent})
		}
		return from(ev, append(out, exposed(ev)...))
	case audit.CallRefused:
		return from(ev, append(calling(ev, false), astray(ev)...))
	case audit.CallOutcome:
		return from(ev, append(answered(ev), exposed(ev)...))
	case audit.AuthRefused:
		return unknown(ev)
	case "leak.reported":
		return []sighting{{kind: KindSecret, name: ev.Object, source: cmp.Or(ev.Actor.Name, "nobody"), times: 1}}
	case "canary.used":
		return []sighting{{kind: KindSecret, name: ev.Object, source: ev.Remote, times: 1}}
	case "agent.deleted", "connection.deleted", "secret.deleted":
		return []sighting{{kind: kindGone, name: ev.Object, times: 1}}
	}
	return nil
}

// from says that the agent of an event showed something, or Countersign itself.
func from(ev audit.Event, all []sighting) []sighting {
	by := ev.Agent
	if by == "" {
		by = audit.System.Name
	}
	for i := range all {
		if all[i].times = 1; all[i].source == "" {
			all[i].source = by
		}
	}
	return all
}

func calling(ev audit.Event, passed bool) (out []sighting) {
	if ev.Agent == "" {
		return nil
	}
	out = append(out, sighting{kind: KindAgent, name: ev.Agent, source: ev.Credential, passed: passed})
	if n := networkOf(ev.Remote); n != "" {
		out = append(out, sighting{kind: KindNetwork, name: n, passed: passed})
	}
	return out
}

// astray is what a request named that is not there.
func astray(ev audit.Event) []sighting {
	var d struct {
		Code string `json:"code"`
	}
	if json.Unmarshal(ev.Detail, &d) != nil {
		return nil
	}
	switch d.Code {
	case "host_refused":
		_, host, _ := strings.Cut(ev.Tool, " ")
		return []sighting{{kind: KindHost, name: strings.ToLower(host)}}
	case "unknown_connection":
		if ev.Connection != "" {
			return []sighting{{kind: KindConnection, name: ev.Connection}}
		}
	case "unknown_tool", "unknown_operation":
		if ev.Tool != "" {
			return []sighting{{kind: KindTool, name: ev.Connection + "/" + ev.Tool}}
		}
	}
	return nil
}

// answered is the model that answered, and the one that was asked.
func answered(ev audit.Event) (out []sighting) {
	if ev.Outcome == nil || ev.Connection == "" {
		return nil
	}
	var d struct {
		Model string `json:"model"`
	}
	_ = json.Unmarshal(ev.Detail, &d) // others have another detail, or none
	said := ""
	if ev.Outcome.Usage != nil {
		said = ev.Outcome.Usage.Model
	}
	for _, m := range []string{said, d.Model} {
		if m != "" && (len(out) == 0 || m != said) {
			out = append(out, sighting{kind: KindModel, name: ev.Connection + "/" + m, passed: ev.Outcome.Status == audit.Succeeded})
		}
	}
	return out
}

// exposed is a value that looks like a secret, in what was said or answered.
func exposed(ev audit.Event) []sighting {
	if ev.Agent == "" || ev.Connection == "" || !slices.Contains(ev.Labels, "secret") {
		return nil
	}
	return []sighting{{kind: KindSecret, name: "content/" + ev.Agent + "/" + ev.Connection, passed: true}}
}

// unknown is somebody at a door. A person who mistypes a password is no agent.
func unknown(ev audit.Event) []sighting {
	if ev.Agent != "" || ev.Object == "login" || strings.HasPrefix(ev.Object, "api/") {
		return nil
	}
	var d struct {
		Claims string `json:"claims_to_be"`
		Count  int64  `json:"count"`
	}
	_ = json.Unmarshal(ev.Detail, &d) // without it, it counts once
	name := strings.TrimSpace(ev.Remote + " " + ev.Client)
	if d.Claims != "" {
		name = strings.TrimSpace(ev.Remote + " as " + d.Claims)
	}
	source := networkOf(ev.Remote)
	if source == "" {
		source = "nowhere"
	}
	return []sighting{{kind: KindCaller, name: name, source: source, times: max(1, d.Count)}}
}

// networkOf returns the /24 or /48 that an address belongs to, "" of what is no
// address.
func networkOf(remote string) string {
	a, err := netip.ParseAddr(remote)
	if err != nil {
		return ""
	}
	a = a.Unmap().WithZone("")
	bits := 48
	if a.Is4() {
		bits = 24
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return ""
	}
	return p.String()
}

// private reports whether a network is of this machine, or of nobody's part of
// the internet.
func private(network string) bool {
	p, err := netip.ParsePrefix(network)
	return err == nil && (p.Addr().IsLoopback() || p.Addr().IsPrivate() || p.Addr().IsLinkLocalUnicast() || p == netip.MustParsePrefix("::/48"))
}

// tame makes a name that somebody else chose one that can be stored: bounded, and
// without what no database takes.
func tame(name string) string {
	if len(name) > longestName {
		name = name[:longestName]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(name, "\uFFFD"), "\x00", "\uFFFD")
}

// idOf is the identifier of a thing: it can be typed, whatever its name.
func idOf(kind, name string) string {
	sum := sha256.Sum256([]byte(kind + "\x00" + name))
	return "obs_" + hex.EncodeToString(sum[:8])
}

// key is a thing.
type key struct{ kind, name string }

// seen is what is known of a thing.
type seen struct {
	source              string
	sources             []string
	first, last, passed time.Time
	times               int64
	firstEvent, event   string
}

// mostSources is how many of those who showed a thing are named.
const mostSources = 5

// add counts a sighting.
func (s *seen) add(x sighting, ev audit.Event) {
	if s.times == 0 || ev.Time.Before(s.first) {
		s.first, s.firstEvent = ev.Time, ev.ID
	}
	if s.times == 0 || !ev.Time.Before(s.last) {
		s.last, s.event = ev.Time, ev.ID
	}
	if x.passed && ev.Time.After(s.passed) {
		s.passed = ev.Time
	}
	if s.times == 0 {
		s.source = tame(x.source)
	}
	s.times += x.times
	s.by(tame(x.source))
}

func (s *seen) by(source string) {
	if source != "" && len(s.sources) < mostSources && !slices.Contains(s.sources, source) {
		s.sources = append(s.sources, source)
	}
}

// merge adds what was seen since.
func (s *seen) merge(n seen) {
	if s.times == 0 {
		*s = n
		return
	}
	if n.first.Before(s.first) {
		s.first, s.firstEvent = n.first, n.firstEvent
	}
	if !n.last.Before(s.last) {
		s.last, s.event = n.last, n.event
	}
	if n.passed.After(s.passed) {
		s.passed = n.passed
	}
	s.times += n.times
	for _, x := range n.sources {
		s.by(x)
	}
}
