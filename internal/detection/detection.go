package detection

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/id"
)

// ID is the prefix of a detection's identifier.
const ID id.Kind = "det"

// The states of a detection.
const (
	Active   = "active"   // its response is in force
	Told     = "told"     // it only told people
	Observed = "observed" // its rule observes: nothing was done
	Failed   = "failed"   // the response could not be made
	Lifted   = "lifted"   // a person ended the response
	Expired  = "expired"  // its time was over, or it was not seen again
)

// Detection is a rule that fired about something, and what was done.
type Detection struct {
	ID         string    `json:"id"`
	Rule       string    `json:"rule"`
	Version    string    `json:"version" doc:"of the rule"`
	Title      string    `json:"title"`
	Severity   string    `json:"severity"`
	Object     string    `json:"object" doc:"what it is about: credential/key_…, agent/NAME"`
	Agent      string    `json:"agent,omitempty"`
	Credential string    `json:"credential,omitempty"`
	Connection string    `json:"connection,omitempty"`
	Response   string    `json:"response" enum:"notify,hold,throttle,lock-credential,lock-agent,rotate"`
	Mode       string    `json:"mode" enum:"observe,enforce" doc:"of the rule then; observe: nothing was done"`
	State      string    `json:"state" enum:"active,told,observed,failed,lifted,expired"`
	Seen       string    `json:"seen" doc:"what was seen"`
	Normal     string    `json:"normal,omitempty" doc:"what would be normal"`
	Event      string    `json:"event" doc:"that decided"`
	Events     []string  `json:"events" doc:"that show it"`
	Times      int64     `json:"times" doc:"how often it fired since"`
	Happened   time.Time `json:"happened" doc:"when the deciding event was"`
	Decided    time.Time `json:"decided"`
	Updated    time.Time `json:"updated"`
	Expires    time.Time `json:"expires,omitzero" doc:"when the response ends by itself"`
	Lock       string    `json:"lock,omitempty"`
	Contained  float64   `json:"contained_ms,omitempty" doc:"from the deciding event until the last call was cut on every replica, in milliseconds"`
	Cut        int64     `json:"cut,omitempty" doc:"calls in flight that were cut"`
	Passed     *int64    `json:"passed,omitempty" doc:"calls that went out between the deciding event and the last cut; absent while that is not known"`
	Error      string    `json:"error,omitempty" doc:"why the response could not be made"`
	Ended      time.Time `json:"ended,omitzero"`
	EndedBy    string    `json:"ended_by,omitempty"`
	EndReason  string    `json:"end_reason,omitempty"`

	key, value, approvers string
	rate                  int64
}

// checkReason wants 1 to 1000 characters that cannot paint over a terminal.
func checkReason(reason string) error {
	if strings.TrimSpace(reason) == "" || !utf8.ValidString(reason) || utf8.RuneCountInString(reason) > 1000 {
		return ErrReason
	}
	for _, r := range reason {
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			return ErrReason.Say("a reason must not hold control characters")
		}
	}
	return nil
}
