package secrets

import (
	"encoding/base64"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"slices"
	"strings"
)

// mostClaims is how many scopes of a credential are told, and how long each may be.
const mostClaims = 100

// Claims returns the scopes that a secret states of itself: those of its settings,
// that a minted credential is asked for with, and those of a value that is a JSON
// Web Token (scope of RFC 9068 and RFC 8693, scp, roles, and the access of Qdrant's
// keys). Nobody verified the latter, and nothing else of the value is told.
func (s *Service) Claims(name string) (settings, stated []string) {
	s.live.mu.RLock()
	defer s.live.mu.RUnlock()
	sec := s.live.secrets[name]
	if sec == nil || s.live.closed {
		return nil, nil
	}
	if sec.Kind != KindValue {
		return tell(strings.Fields(sec.Settings["scope"])), nil
	}
	return nil, tell(stateOf(sec.value.Expose()))
}

func tell(scopes []string) []string {
	scopes = slices.DeleteFunc(scopes, func(s string) bool { return s == "" || len(s) > 256 })
	slices.Sort(scopes)
	scopes = slices.Compact(scopes)
	return scopes[:min(len(scopes), mostClaims)]
}

// words are the scopes in a claim: a text of words, or a list of texts.
type words []string

func (w *words) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) == nil {
		*w = strings.Fields(text)
		return nil
	}
	var list []string
	if json.Unmarshal(b, &list) == nil { // of what is neither nothing is told
		*w = list
	}
	return nil
}

func stateOf(value []byte) (scopes []string) {
	parts := strings.Split(string(value), ".")
	if len(parts) != 3 {
		return nil
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil
	}
	var c struct {
		Scope  words          `json:"scope"`
		Scp    words          `json:"scp"`
		Roles  words          `json:"roles"`
		Access jsontext.Value `json:"access"`
	}
	if json.Unmarshal(b, &c) != nil {
		return nil
	}
	return slices.Concat(c.Scope, c.Scp, c.Roles, accessOf(c.Access))
}

// accessOf reads the access that a key of Qdrant gives
// (https://qdrant.tech/documentation/guides/security/): r, or m for all, or r and
// rw for each of some collections.
func accessOf(v jsontext.Value) (out []string) {
	var whole string
	if json.Unmarshal(v, &whole) == nil {
		switch whole {
		case "r":
			return []string{"access:read"}
		case "m":
			return []string{"access:manage"}
		}
		return nil
	}
	var some []struct {
		Collection string `json:"collection"`
		Access     string `json:"access"`
	}
	if json.Unmarshal(v, &some) != nil {
		return nil
	}
	for _, c := range some {
		out = append(out, c.Collection+":"+c.Access)
	}
	return out
}
