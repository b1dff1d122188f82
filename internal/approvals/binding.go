package approvals

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"

	"github.com/countersign/countersign/internal/audit"
)

// Binding is everything that an approval is for. Two calls with the same
// binding are the same call; a difference in any member, or in any byte of
// the content, makes another request.
type Binding struct {
	Agent      string        `json:"agent"`
	AgentID    string        `json:"agent_id"`
	Chain      []audit.Actor `json:"chain"`
	Connection string        `json:"connection"`
	Target     string        `json:"target"` // digest of how the connection is reached
	Tool       string        `json:"tool"`
	Definition string        `json:"definition"` // digest of the tool's accepted definition
	Rules      []Rule        `json:"rules"`      // that determined the decision, by their names
	Method     string        `json:"method"`
	Path       string        `json:"path"`
	Query      string        `json:"query"`
	// Content is the hex SHA-256 of the raw bytes that are decided on, before
	// anything is redacted: two passwords that look alike to an approver are two
	// requests.
	Content string `json:"content"`
}

// Rule is a policy or grant that determined the decision about a call: whom to
// ask, and that it is allowed then. Others may change without anybody having to
// decide again; whether they let the call pass is decided anew when it is made.
type Rule struct {
	Name   string `json:"name"`
	Digest string `json:"digest"` // of what it says
}

// same returns what identifies the call whatever decides about it: an
// identical call attaches to the one open request.
func (b Binding) same() string {
	b.Rules = nil
	return b.Digest()
}

// Digest returns the hex SHA-256 of everything that people approve.
func (b Binding) Digest() string {
	if b.Chain == nil {
		b.Chain = []audit.Actor{}
	}
	if b.Rules == nil {
		b.Rules = []Rule{}
	}
	raw, err := json.Marshal(struct {
		Version int `json:"v"`
		Binding
	}{2, b}, json.Deterministic(true))
	if err != nil { // a name that is not UTF-8: no two of them are the same call
		return ""
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// Digest returns the hex SHA-256 of parts, each with its length, so that no
// two lists of parts have the same.
func Digest(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		var n [8]byte
		for i, l := 7, len(p); i >= 0; i, l = i-1, l>>8 {
			n[i] = byte(l)
		}
		h.Write(n[:])
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil))
}
