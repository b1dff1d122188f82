package stdio

// Complaints is what a child's stderr goes through.
type Complaints = complaints

// NewComplaints returns one that logs to log.
func NewComplaints(redact func([]byte) []byte, log func(string)) *Complaints {
	return &complaints{redact: redact, log: log}
}

func (s *Complaints) Take(b []byte) { s.take(b) }
func (s *Complaints) Pause()        { s.pause() }
func (s *Complaints) End()          { s.end() }
func (s *Complaints) Held() int     { return len(s.buf) }

// Limits that the tests aim at.
const (
	MaxComplaint    = maxComplaint
	ComplaintMargin = complaintMargin
)
