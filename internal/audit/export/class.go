package export

import (
	"strings"

	"github.com/countersign/countersign/internal/audit"
)

// class is an OCSF event class, by its class_uid.
type class int

// The classes that events become.
const (
	detectionFinding class = 2004
	accountChange    class = 3001
	authentication   class = 3002
	apiActivity      class = 6003
)

type classInfo struct {
	name, category string
	activities     map[int]string
}

// Activities of API Activity. Other is what the class has no name for: the
// event's type then is the activity's name.
const (
	create = 1
	read   = 2
	update = 3
	remove = 4
	other  = 99
)

var classes = map[class]classInfo{
	detectionFinding: {"Detection Finding", "Findings", map[int]string{1: "Create", 2: "Update", 3: "Close"}},
	accountChange: {"Account Change", "Identity & Access Management", map[int]string{1: "Create", 2: "Enable", 3: "Password Change", 5: "Disable", 6: "Delete",
		7: "Attach Policy", 8: "Detach Policy", 9: "Lock", 12: "Unlock"}},
	authentication: {"Authentication", "Identity & Access Management", map[int]string{1: "Logon", 2: "Logoff", 3: "Authentication Ticket"}},
	apiActivity:    {"API Activity", "Application Activity", map[int]string{create: "Create", read: "Read", update: "Update", remove: "Delete"}},
}

func (c class) category() int { return int(c) / 1000 }

// kind is a class and an activity in it.
type kind struct {
	class    class
	activity int
}

// kinds maps the event types that are not what their verb says: accounts,
// sign-ins, findings. The activity of calls follows from the tool's effect.
var kinds = map[audit.Type]kind{
	audit.CallIntent: {apiActivity, other}, audit.CallDenied: {apiActivity, other}, audit.CallHeld: {apiActivity, other},
	audit.CallRefused: {apiActivity, other}, audit.CallOutcome: {apiActivity, other}, audit.CallSettled: {apiActivity, other},

	audit.AuthRefused: {authentication, 1}, "user.logged_in": {authentication, 1}, "user.logged_out": {authentication, 2},
	"run.started": {authentication, 1}, "run.ended": {authentication, 2},
	"token.issued": {authentication, 3}, "token.exchanged": {authentication, 3},

	"user.created": {accountChange, 1}, "user.enabled": {accountChange, 2}, "user.password_set": {accountChange, 3},
	"user.disabled": {accountChange, 5}, "user.deleted": {accountChange, 6}, "user.updated": {accountChange, other},
	"user.token_issued": {accountChange, other}, "user.token_revoked": {accountChange, other},
	"user.passkey_added": {accountChange, other}, "user.passkey_renamed": {accountChange, other}, "user.passkey_removed": {accountChange, other},
	"user.passkey_suspected": {authentication, other},
	"user.linked":            {accountChange, other}, "user.signed_out": {accountChange, other},

	"agent.created": {accountChange, 1}, "agent.resumed": {accountChange, 2}, "agent.suspended": {accountChange, 5},
	"agent.owner_left": {accountChange, other}, "agent.grace_ended": {accountChange, other}, "agent.owner_settled": {accountChange, other}, "agent.owner_moved": {accountChange, other},
	"agent.offered": {accountChange, other}, "agent.offer_expired": {accountChange, other}, "agent.accepted": {accountChange, other},
	"agent.decommission_begun": {accountChange, other}, "agent.decommissioned": {accountChange, 6},
	"agent.drills_forgotten":    {accountChange, other},
	"agent.decommission_proved": {accountChange, other}, "agent.decommission_failed": {accountChange, other},
	"agent.deleted": {accountChange, 6}, "agent.updated": {accountChange, other}, "agent.owner_changed": {accountChange, other},
	"agent.key_issued": {accountChange, other}, "agent.key_rotated": {accountChange, other}, "agent.key_revoked": {accountChange, other},

	"grant.given": {accountChange, 7}, "grant.revoked": {accountChange, 8}, "grant.changed": {accountChange, other},

	"leak.reported": {detectionFinding, 1}, "canary.used": {detectionFinding, 1},
	"finding.opened": {detectionFinding, 1}, "finding.updated": {detectionFinding, 2}, "finding.closed": {detectionFinding, 3},
	"finding.reopened": {detectionFinding, 2}, "finding.tuned": {detectionFinding, 2}, "finding.muted": {detectionFinding, 2}, "finding.unmuted": {detectionFinding, 2},
	"detection.observed": {detectionFinding, 1}, "detection.acted": {detectionFinding, 1}, "detection.repeated": {detectionFinding, 2}, "detection.contained": {detectionFinding, 2},
	"detection.crowded": {detectionFinding, 2}, "detection.lifted": {detectionFinding, 3}, "detection.expired": {detectionFinding, 3}, "detection.ended": {detectionFinding, 3},
	"usage.surplus": {detectionFinding, 1}, "usage.reconciled": {apiActivity, read},
	"budget.warned": {detectionFinding, 1}, "budget.exhausted": {detectionFinding, 1},
}

// verbs says what the participle of any other type does to its object: API
// Activity. One that is in neither table is Other, and a test asks for it.
var verbs = func() map[string]int {
	m := map[string]int{}
	for activity, list := range map[int]string{
		create: "created registered prepared placed requested added saved noted asked opened imported published issued started given commented key_made exception_made sent",
		read: "used discovered undiscovered bad_definitions appeared new gone returned drifted read exported listed viewed reached found exchanged backtested " +
			"consented declined failed tried enforced begun evaluated reminded",
		update: "updated changed rotated accepted pinned effect_set rebuilt configured resumed recovered skipped set answered approved denied refused " +
			"granted delegated escalated renewed extended replaced promoted undone retried replayed shared moved renamed suspended activated " +
			"executed decided voted stopped rolled_back overridden advanced hastened rekeyed redirected set_aside taken_back",
		remove: "deleted released erased expired revoked lifted removed withdrawn cancelled closed ended destroyed rejected retired dropped voided",
	} {
		for v := range strings.FieldsSeq(list) {
			m[v] = activity
		}
	}
	return m
}()

// Mapped reports whether there is a rule for events of type t. Events without
// one are exported all the same, as API Activity of activity Other.
func Mapped(t audit.Type) bool {
	_, ok := kindOf(t)
	return ok
}

func kindOf(t audit.Type) (kind, bool) {
	if k, ok := kinds[t]; ok {
		return k, true
	}
	_, verb, _ := strings.Cut(string(t), ".")
	if a, ok := verbs[verb]; ok {
		return kind{apiActivity, a}, true
	}
	if a, ok := verbs[verb[strings.LastIndexByte(verb, '_')+1:]]; ok { // key_created
		return kind{apiActivity, a}, true
	}
	return kind{apiActivity, other}, false
}

// callActivity is what a call does, by its tool's effect.
func callActivity(effect string) int {
	switch effect {
	case "read":
		return read
	case "write":
		return update
	}
	return other // what cannot be undone may be anything
}
