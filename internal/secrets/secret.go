package secrets

import (
	"bytes"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits.
const (
	MinValue = 8        // bytes; shorter values could not be told from ordinary text
	MaxValue = 64 << 10 // bytes
	maxHosts = 32

	maxSettings = 32
	maxSetting  = 4096 // bytes of one key or value
)

// Spec is what a person says of a secret.
type Spec struct {
	Name       string
	Owner      string   // name of a user, who answers for it
	Connection string   // the only connection it is used for
	Hosts      []string // HOST or HOST:PORT it may be sent to; none: wherever its connection points

	// Kind says what is made of the value for each use: KindValue (it is sent as
	// it is) or the name of a Minter.
	Kind     string
	Settings map[string]string // of Kind
	// Source says where the value is: empty for sealed in the store, or
	// SCHEME://REST of a Source.
	Source string
	// Rotation says how it is rotated: "by" names the rotator, the rest is its.
	// Empty: by people.
	Rotation map[string]string
}

// KindValue is the kind of secrets that are sent as they are.
const KindValue = ""

// Secret is a stored secret without its value.
type Secret struct {
	ID string
	Spec
	Version  int64 // 1 at first, one more with each value
	Created  time.Time
	Rotated  time.Time // when the present value was put
	LastUsed time.Time // to the minute; zero: never
	Newest   int64     // the highest version there ever was
	Ref      string    // what the provider calls the present version; not a secret
	Broken   bool      // its value cannot be opened; it must be put again
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// Normalize returns s with its hosts in lower case, sorted, without repeats, or
// what is wrong with it.
func (s Spec) Normalize() (Spec, error) {
	for field, v := range map[string]string{"name": s.Name, "owner": s.Owner, "connection": s.Connection} {
		if !nameForm.MatchString(v) {
			return s, ErrInvalid.Say("%s: must be 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit", field)
		}
	}
	if len(s.Hosts) > maxHosts {
		return s, ErrInvalid.Say("hosts: at most %d", maxHosts)
	}
	hosts := make([]string, 0, len(s.Hosts))
	for _, h := range s.Hosts {
		name, port, ok := splitHost(h)
		if !ok {
			return s, ErrInvalid.Say("hosts: each is HOST or HOST:PORT, without scheme, path or wildcard")
		}
		if port != "" {
			name = net.JoinHostPort(name, port)
		}
		hosts = append(hosts, name)
	}
	slices.Sort(hosts)
	s.Hosts = slices.Compact(hosts)
	return s, s.checkMore()
}

var kindForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,30}$`)

// checkMore looks at the form of what Normalize leaves as it is. Whether kind,
// source and rotator are known, and their settings right, the Service says.
func (s *Spec) checkMore() error {
	if s.Kind == "value" {
		s.Kind = KindValue
	}
	switch {
	case s.Kind != KindValue && !kindForm.MatchString(s.Kind):
		return ErrInvalid.Say("kind: is not the name of a kind")
	case s.Kind == KindValue && len(s.Settings) > 0:
		return ErrInvalid.Say("settings: a secret that is sent as it is has none; give it a kind")
	case len(s.Source) > maxSetting || !utf8.ValidString(s.Source) || strings.ContainsFunc(s.Source, unicode.IsControl):
		return ErrInvalid.Say("source: must be SCHEME://REST in at most %d bytes", maxSetting)
	case s.Source != "" && len(s.Rotation) > 0:
		return ErrInvalid.Say("rotation: a value that is kept elsewhere (source) is rotated there")
	case len(s.Rotation) > 0 && s.Rotation["by"] == "":
		return ErrInvalid.Say("rotation: needs by, the name of a rotator")
	}
	for field, m := range map[string]map[string]string{"settings": s.Settings, "rotation": s.Rotation} {
		if len(m) > maxSettings {
			return ErrInvalid.Say("%s: at most %d entries", field, maxSettings)
		}
		for k, v := range m {
			if k == "" || len(k) > 64 || len(v) > maxSetting || !utf8.ValidString(k) || !utf8.ValidString(v) || strings.ContainsRune(k+v, 0) {
				return ErrInvalid.Say("%s: %.40q must be UTF-8 text of at most %d bytes", field, k, maxSetting)
			}
		}
	}
	if len(s.Settings) == 0 {
		s.Settings = nil
	}
	if len(s.Rotation) == 0 {
		s.Rotation = nil
	}
	return nil
}

// Valueless reports whether the store keeps no value for such a secret: it is
// kept elsewhere, or there is none at all.
func (s Spec) Valueless() bool { return s.Source != "" }

// hostForm reports whether s, in lower case, has the form of a DNS name: at most
// 254 letters, digits, dots, hyphens and underscores, which begins with a letter,
// a digit or an underscore and ends with a letter or a digit. It is on the way of
// every call, so it is no regular expression.
func hostForm(s string) bool {
	alnum := func(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }
	if len(s) == 0 || len(s) > 254 || !alnum(s[0]) && s[0] != '_' || len(s) > 1 && !alnum(s[len(s)-1]) {
		return false
	}
	for i := 1; i < len(s); i++ {
		if c := s[i]; !alnum(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// splitHost splits HOST, HOST:PORT, [IPv6] or [IPv6]:PORT; the port may be empty.
func splitHost(s string) (host, port string, ok bool) {
	s = strings.ToLower(s)
	host = s
	if h, p, err := net.SplitHostPort(s); err == nil {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return "", "", false
		}
		host, port = h, p
	}
	host = strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"), ".")
	return host, port, hostForm(host) || net.ParseIP(host) != nil
}

// allows reports whether the secret may be sent to host, which is HOST or
// HOST:PORT and empty for a child process. An entry without a port allows any.
func (s Spec) allows(host string) bool {
	if len(s.Hosts) == 0 {
		return true
	}
	name, port, ok := splitHost(host)
	if !ok {
		return false
	}
	return slices.ContainsFunc(s.Hosts, func(allowed string) bool {
		n, p, _ := splitHost(allowed)
		return n == name && (p == "" || p == port)
	})
}

func (s Spec) same(o Spec) bool {
	return s.Name == o.Name && s.Owner == o.Owner && s.Connection == o.Connection && slices.Equal(s.Hosts, o.Hosts) &&
		s.Kind == o.Kind && s.Source == o.Source && maps.Equal(s.Settings, o.Settings) && maps.Equal(s.Rotation, o.Rotation)
}

func checkValue(v Value) error {
	switch b := v.Expose(); {
	case len(b) < MinValue:
		return ErrInvalid.Say("value: must have at least %d bytes; shorter ones cannot be kept out of logs", MinValue)
	case len(b) > MaxValue:
		return ErrInvalid.Say("value: at most %d bytes", MaxValue)
	case len(bytes.TrimSpace(b)) != len(b) && !bytes.Contains(b, []byte("\n")):
		return ErrInvalid.Say("value: begins or ends with white space; it would be sent as it is, so remove it")
	case len(bytes.TrimSpace(b)) == 0:
		return ErrInvalid.Say("value: is nothing but white space")
	}
	return nil
}

func checkReason(reason string) error {
	if len(reason) > 1000 || !utf8.ValidString(reason) {
		return ErrReason
	}
	return nil
}
