package statement

import (
	"crypto/ed25519"
	"encoding/json/jsontext"
	"encoding/json/v2"
)

// Decided are the types of events that record somebody's decision.
var Decided = map[string]bool{"approval.voted": true, "approval.granted": true, "approval.denied": true, "approval.overridden": true}

// CheckEvent says what is wrong with an event of a decision, "" if nothing is:
// it must hold a statement, signed by key, about the event's own object, actor
// and digest. Any other event is none of its business.
func CheckEvent(kind, object, actor string, detail jsontext.Value, key ed25519.PublicKey) string {
	if !Decided[kind] {
		return ""
	}
	var d struct {
		Approval  string `json:"approval"`
		Digest    string `json:"digest"`
		Verdict   string `json:"verdict"`
		Statement string `json:"statement"`
		Signature string `json:"signature"`
	}
	if err := json.Unmarshal(detail, &d); err != nil || d.Statement == "" {
		return "a decision without a statement"
	}
	s, err := Verify(d.Statement, d.Signature, key)
	switch {
	case err != nil:
		return "a decision that is not signed: " + err.Error()
	case "approval/"+s.Approval != object || s.Approval != d.Approval || s.Digest != d.Digest || s.Verdict != d.Verdict || s.Person.ID != actor:
		return "a decision whose signed statement is about something else"
	}
	return ""
}
