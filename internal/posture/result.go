package posture

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"time"
)

// Result is what a predicate came to.
type Result string

// The results. The zero value is none of them.
const (
	Pass          Result = "PASS"
	Fail          Result = "FAIL"
	NoData        Result = "NO_DATA"        // nothing to look at, not everything could be reached, the canary was not caught, or it expired
	NotApplicable Result = "NOT_APPLICABLE" // and why
	ByHand        Result = "MANUAL"         // nothing here is evidence for it
)

// Results lists them.
var Results = []Result{Pass, Fail, NoData, NotApplicable, ByHand}

// Violation is an object that breaks a check, and where that shows.
type Violation struct {
	Object  string   `json:"object"`
	Message string   `json:"message"`
	Events  []string `json:"events,omitempty" doc:"events of the log that show it"`
}

// Gap is something that should have been looked at and could not be.
type Gap struct {
	Object string `json:"object"`
	Why    string `json:"why"`
}

// Canary is the violation that a check was given to see that it can fail.
type Canary struct {
	What   string `json:"what"`
	Caught bool   `json:"caught"`
}

// mostShown is how many violations and gaps of a check are kept; all are counted.
const mostShown = 100

// Check is one question of a predicate.
type Check struct {
	Name        string      `json:"name"`
	Asks        string      `json:"asks"`
	Result      Result      `json:"result"`
	Reason      string      `json:"reason,omitempty" doc:"why there is no data, or it does not apply"`
	Unit        string      `json:"unit" doc:"what is counted"`
	Population  int64       `json:"population" doc:"how many there are, as observed"`
	Evaluated   int64       `json:"evaluated"`
	Violated    int64       `json:"violated"`
	Violations  []Violation `json:"violations" doc:"the first hundred"`
	Unreachable []Gap       `json:"unreachable" doc:"the first hundred"`
	Canary      Canary      `json:"canary"`
	Looked      string      `json:"looked,omitempty" doc:"hex SHA-256 over every object that was looked at and what was said of it"`
}

// Span is a part of a lane of the log: the records after From, up to To.
type Span struct {
	Lane int64 `json:"lane"`
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// Evidence is the result of a predicate at one time.
type Evidence struct {
	ID         string    `json:"id"`
	Run        string    `json:"run"`
	Predicate  string    `json:"predicate"`
	Version    int       `json:"version" doc:"of the predicate"`
	Name       string    `json:"name"`
	Kind       string    `json:"kind" enum:"query,probe,drill"`
	Result     Result    `json:"result" enum:"PASS,FAIL,NO_DATA,NOT_APPLICABLE,MANUAL"`
	Reason     string    `json:"reason,omitempty"`
	Population int64     `json:"population"`
	Evaluated  int64     `json:"evaluated"`
	Violated   int64     `json:"violated"`
	Checks     []Check   `json:"checks"`
	Limits     string    `json:"limits" doc:"what it cannot see"`
	Since      time.Time `json:"since" doc:"how far back the log was looked at"`
	Collected  time.Time `json:"collected"`
	Expires    time.Time `json:"expires"`
	Log        []Span    `json:"log" doc:"what was in the log at that time"`
}

// Digest returns the hex SHA-256 of the evidence as canonical JSON (RFC 8785):
// the event of its run holds it.
func (e Evidence) Digest() (string, error) {
	b, err := json.Marshal(e, json.FormatNilSliceAsNull(false))
	if err != nil {
		return "", err
	}
	v := jsontext.Value(b)
	if err := v.Canonicalize(); err != nil {
		return "", err
	}
	sum := sha256.Sum256(v)
	return hex.EncodeToString(sum[:]), nil
}

// At returns the result as it counts at a time: what expired is NO_DATA.
func (e Evidence) At(now time.Time) (Result, string) {
	if !now.Before(e.Expires) && (e.Result == Pass || e.Result == NotApplicable) {
		return NoData, "it expired at " + e.Expires.UTC().Format(time.RFC3339) + "; run countersign posture run"
	}
	return e.Result, e.Reason
}

// Worst returns the result of several that must all hold. FAIL wins, then
// NO_DATA; what does not apply counts only if nothing else is there.
func Worst(results ...Result) Result {
	out := Result("")
	for _, want := range []Result{Fail, NoData, Pass, NotApplicable, ByHand} {
		for _, r := range results {
			if r == want && out == "" {
				out = r
			}
		}
	}
	if out == "" {
		return NoData
	}
	return out
}

// combine fills in what follows from the checks.
func (e *Evidence) combine() {
	results := make([]Result, 0, len(e.Checks))
	for _, c := range e.Checks {
		results = append(results, c.Result)
		e.Population, e.Evaluated, e.Violated = e.Population+c.Population, e.Evaluated+c.Evaluated, e.Violated+c.Violated
	}
	e.Result = Worst(results...)
	for _, c := range e.Checks {
		if c.Result == e.Result && c.Reason != "" {
			e.Reason = c.Name + ": " + c.Reason
			return
		}
	}
}
