package export

import (
	"cmp"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
)

// Errors of this package.
var (
	ErrTarget     = fault.New(fault.Invalid, "bad_export_target", "the export target cannot be used as it is")
	ErrNoTarget   = fault.New(fault.NotFound, "no_such_export_target", "no export target has this name; list them with: countersign log export status")
	ErrNotBlocked = fault.New(fault.Conflict, "export_not_blocked", "the target is not stopped at an event: there is nothing to skip")
	ErrReason     = fault.New(fault.Invalid, "reason_required", "say why: give a reason of at most 1000 characters (--reason)")
	ErrCursor     = fault.New(fault.Invalid, "bad_cursor", "the cursor is not the id of an event; give metadata.uid of the last line that arrived whole")
	ErrSince      = fault.New(fault.Invalid, "bad_time", "until lies before since")
)

// The kinds of targets.
const (
	OTLP = "otlp" // an OpenTelemetry collector
	OCSF = "ocsf" // a directory of OCSF 1.8 JSON Lines
)

// The ways to speak OTLP.
const (
	HTTP = "http/protobuf"
	GRPC = "grpc"
)

// Target is where the log goes, continuously. The zero value of a field means
// its default.
type Target struct {
	Name string // of the target in status, commands and file names; its position is kept under it
	Kind string // OTLP or OCSF

	URL      string            // OTLP: of the collector, without /v1/logs
	Protocol string            // HTTP (default) or GRPC
	Headers  map[string]string // sent with every request; their values are secrets
	Plain    bool              // send without compression
	Insecure bool              // allow http:// to another machine
	CA       string            // file with the certificates to trust, PEM; empty means the system's
	NoLogs   bool              // leave out log records
	NoTraces bool              // leave out spans
	Timeout  time.Duration     // of one request. Default 10s, at most 20s

	Dir         string        // OCSF: the directory
	RotateBytes int64         // a file is handed over when it has this size. Default 64 MiB
	RotateAfter time.Duration // or this age. Default 1m

	Payloads bool // send the bodies beside events too
	FromNow  bool // a new target begins with what is recorded from now on, not with the whole log
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,40}$`)

// check fills defaults and says what is wrong with t.
func (t *Target) check() error {
	if !nameForm.MatchString(t.Name) {
		return ErrTarget.Say("an export target's name must be 1 to 41 of a-z, 0-9 and '-', not %q", t.Name)
	}
	switch t.Kind {
	case OTLP:
		return t.checkOTLP()
	case OCSF:
		if !filepath.IsAbs(t.Dir) {
			return ErrTarget.Say("export target %s: dir must be an absolute path", t.Name)
		}
		t.RotateBytes = cmp.Or(t.RotateBytes, 64<<20)
		t.RotateAfter = cmp.Or(t.RotateAfter, time.Minute)
		if t.RotateBytes < 0 || t.RotateAfter < 0 {
			return ErrTarget.Say("export target %s: a limit cannot be negative", t.Name)
		}
		return nil
	}
	return ErrTarget.Say("export target %s: its kind must be otlp or ocsf, not %q", t.Name, t.Kind)
}

func (t *Target) checkOTLP() error {
	t.Protocol = cmp.Or(t.Protocol, HTTP)
	t.Timeout = cmp.Or(t.Timeout, 10*time.Second)
	u, err := url.Parse(t.URL)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"):
		return ErrTarget.Say("export target %s: url is no http(s) URL, such as https://collector.example:4318", t.Name)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return ErrTarget.Say("export target %s: put credentials into headers, not into the url", t.Name)
	case u.Scheme == "http" && !t.Insecure && !loopback(u.Hostname()):
		return ErrTarget.Say("export target %s: the log would cross the network in plain; use https, or set insecure: true", t.Name)
	case t.Protocol != HTTP && t.Protocol != GRPC:
		return ErrTarget.Say("export target %s: protocol must be %s or %s", t.Name, HTTP, GRPC)
	case t.Timeout < 0 || t.Timeout > 20*time.Second:
		return ErrTarget.Say("export target %s: timeout must be at most 20s", t.Name)
	case t.NoLogs && t.NoTraces:
		return ErrTarget.Say("export target %s: neither logs nor traces are to be sent", t.Name)
	}
	for name, value := range t.Headers {
		if !headerForm.MatchString(name) || strings.ContainsAny(value, "\r\n\x00") {
			return ErrTarget.Say("export target %s: the name or value of a header cannot be sent", t.Name) // never shows either
		}
	}
	t.URL = strings.TrimRight(t.URL, "/")
	return nil
}

var headerForm = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$") // RFC 9110, token

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// destination says for people, and for the log, where t goes.
func (t *Target) destination() string {
	where := t.URL + " (" + t.Protocol + ")"
	if t.Kind == OCSF {
		where = t.Dir
	}
	if t.Payloads {
		where += ", with payloads"
	}
	return where
}

// hide replaces the values of headers in s, which came from outside and may
// repeat them.
func (t *Target) hide(s string) string {
	for _, v := range t.Headers {
		for _, part := range append(strings.Fields(v), v) {
			if len(part) >= 8 {
				s = strings.ReplaceAll(s, part, "[secret]")
			}
		}
	}
	return s
}
