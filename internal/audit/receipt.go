package audit

// Receipt proves, in the type system, that an intent is durable. Only Log
// makes valid ones; the zero Receipt is invalid. A receipt is for one call.
type Receipt struct {
	call, event string
	intent      *entry // what the outcome inherits
	claim       *claim // the hold on the lane under which the intent was written
	sn          int64
	valid       bool
}

// For reports whether r proves that the intent of call is durable.
func (r Receipt) For(call string) bool { return r.valid && call != "" && r.call == call }

// Event returns the identifier of the intent's event.
func (r Receipt) Event() string { return r.event }
