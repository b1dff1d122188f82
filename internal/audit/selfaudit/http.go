package selfaudit

import (
	"context"
	"net/http"

	"github.com/countersign/countersign/internal/rest"
)

// sliceRequest asks for a look at a part of the ledger.
type sliceRequest struct {
	Body struct {
		Part   string `json:"part,omitempty" enum:"log,tree,index,calls" doc:"empty: begin"`
		Lane   int64  `json:"lane,omitempty" minimum:"0"`
		At     int64  `json:"at,omitempty" minimum:"0"`
		Budget int64  `json:"budget,omitempty" minimum:"0" maximum:"20000" doc:"records to look at; 5000 if empty"`
	}
}

// Report is what a look found.
type Report struct {
	Part     string    `json:"part" doc:"what was looked at: log, tree, index or calls"`
	Checked  int64     `json:"checked" doc:"records looked at"`
	Total    int64     `json:"total" doc:"records that a whole audit looks at, all parts together"`
	InFlight int64     `json:"in_flight,omitempty" doc:"calls that somebody works on"`
	Problems []Found   `json:"problems" doc:"what does not match, and where"`
	Next     *NextPart `json:"next,omitempty" doc:"where to go on; absent when the whole was seen"`
}

// Found is a mismatch.
type Found struct {
	ID      string `json:"id" doc:"part and place"`
	Part    string `json:"part"`
	Where   string `json:"where"`
	Message string `json:"message"`
}

// NextPart is a position.
type NextPart struct {
	Part string `json:"part"`
	Lane int64  `json:"lane"`
	At   int64  `json:"at"`
}

const defaultBudget = 5000

// Routes declares the operation.
func (s *Service) Routes(api *rest.API) {
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: "/api/v1/log/audit", Summary: "Compare a part of the log with its tree, its index and itself", Tag: "log", Need: rest.Inspect}, s.serveSlice)
}

func (s *Service) serveSlice(ctx context.Context, _ rest.Caller, r *sliceRequest) (*Report, error) {
	b := r.Body
	if b.Budget == 0 {
		b.Budget = defaultBudget
	}
	got, err := s.Slice(ctx, Position{b.Part, b.Lane, b.At}, b.Budget)
	if err != nil {
		return nil, err
	}
	out := Report{Part: got.Part, Checked: got.Checked, InFlight: got.InFlight, Problems: []Found{}}
	for _, p := range got.Problems {
		out.Problems = append(out.Problems, Found{p.Part + ": " + p.Where, p.Part, p.Where, p.Message})
	}
	if !got.Done {
		out.Next = &NextPart{got.Next.Part, got.Next.Lane, got.Next.At}
	}
	out.Total, err = s.Total(ctx)
	return &out, err
}
