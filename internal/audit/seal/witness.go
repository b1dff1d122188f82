package seal

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/countersign/countersign/internal/audit/tlog"
)

// Witness is somebody who cosigns the log's checkpoints (C2SP tlog-witness).
type Witness struct {
	URL string // submission prefix, http or https
	Key string // vkey of its cosignatures
}

// How long a witness may take to answer, and how much it may say.
const (
	witnessTimeout = 10 * time.Second
	maxAnswer      = 64 << 10
)

// post sends a body and returns the answer's status and the beginning of its body.
type post func(ctx context.Context, url, body string) (status int, answer []byte, err error)

type witness struct {
	Witness
	verifier note.Verifier

	mu    sync.Mutex
	size  int64 // that it cosigned last, as far as we know
	at    time.Time
	wrong string
}

func openWitnesses(list []Witness) ([]*witness, error) {
	var out []*witness
	for _, w := range list {
		u, err := url.Parse(w.URL)
		if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
			return nil, ErrOptions.Say("a witness needs an http or https URL without credentials")
		}
		v, err := tlog.ParseWitness(w.Key)
		if err != nil {
			return nil, ErrOptions.Say("the key of witness %s cannot be read", u.Host).With(err)
		}
		out = append(out, &witness{Witness: w, verifier: v})
	}
	return out, nil
}

// ask sends checkpoints to one witness until ctx ends. Only the replica that
// leads does.
func (s *Service) ask(ctx context.Context, w *witness) {
	var last int64 = -1
	for ctx.Err() == nil {
		wake := s.Sealed()
		if s.leads() {
			size, err := s.Cosign(ctx, w.verifier.Name(), last)
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				last = size
			} else {
				s.alert(ctx, Alert{"log.witness", "witness/" + w.verifier.Name(), "A witness does not cosign the log", err.Error()})
			}
		}
		pause(ctx, s.o.WitnessEvery)
		select {
		case <-ctx.Done():
		case <-wake:
		case <-time.After(s.o.WitnessEvery):
		}
	}
}

// leads reports whether this process sealed last, as far as it knows.
func (s *Service) leads() bool {
	s.working.Lock()
	defer s.working.Unlock()
	return s.held
}

// Cosign asks the witness of this name to cosign the newest checkpoint, if it
// is not of size done, and returns its size. The cosignature is kept.
func (s *Service) Cosign(ctx context.Context, name string, done int64) (int64, error) {
	for _, w := range s.witnesses {
		if w.verifier.Name() == name {
			size, err := s.cosign(ctx, w, done)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.wrong = ""
			if err != nil {
				w.wrong = err.Error()
			} else if size > 0 {
				w.size, w.at = size, s.o.Now()
			}
			return size, err
		}
	}
	return 0, ErrOptions.Say("there is no witness %q", name)
}

func (s *Service) cosign(ctx context.Context, w *witness, done int64) (int64, error) {
	cs, err := s.store.checkpoints(ctx, ` ORDER BY size DESC LIMIT 1`)
	if err != nil || len(cs) == 0 {
		return 0, err
	}
	c := cs[0]
	if c.Size == done {
		return done, nil
	}
	older, err := s.store.cosigned(ctx, w.verifier.Name())
	if err != nil {
		return 0, err
	}
	for range 2 { // it may know another size: then once more from there
		line, theirs, err := s.addCheckpoint(ctx, w, c, older)
		if err != nil {
			return 0, err
		}
		if line != "" {
			return c.Size, s.store.addCosignature(ctx, c.Size, w.verifier.Name(), line, s.o.Now())
		}
		if theirs > c.Size {
			return 0, fmt.Errorf("the witness has seen this log with %d records, it has %d here: the database may have lost some", theirs, c.Size)
		}
		older = theirs
	}
	return 0, errors.New("the witness changes its mind about what it has seen")
}

// addCheckpoint makes one request. It returns a verified signature line, or
// else the size that the witness wants the proof from.
func (s *Service) addCheckpoint(ctx context.Context, w *witness, c Checkpoint, older int64) (line string, theirs int64, err error) {
	proof, err := tlog.ProveConsistency(older, c.Size, tlog.TileNodes(c.Size, s.tile(ctx)))
	if err != nil {
		return "", 0, err
	}
	var body strings.Builder
	fmt.Fprintf(&body, "old %d\n", older)
	for _, h := range proof {
		body.WriteString(h.String() + "\n")
	}
	body.WriteString("\n" + c.Note)
	ctx, cancel := context.WithTimeout(ctx, witnessTimeout)
	defer cancel()
	status, answer, err := s.post(ctx, strings.TrimSuffix(w.URL, "/")+"/add-checkpoint", body.String())
	if err != nil {
		return "", 0, fmt.Errorf("the witness does not answer: %w", err)
	}
	switch status {
	case 200:
		line, err := pickCosignature(c.Note, answer, w.verifier)
		return line, 0, err
	case 409:
		text := strings.TrimSuffix(string(answer), "\n")
		theirs, err := strconv.ParseInt(text, 10, 64)
		if err != nil || theirs < 0 || strconv.FormatInt(theirs, 10) != text {
			return "", 0, errors.New("the witness answered 409 without a size")
		}
		return "", theirs, nil
	}
	return "", 0, fmt.Errorf("the witness answered %d", status)
}

// pickCosignature returns the line of a witness's answer that is its valid
// cosignature of the checkpoint.
func pickCosignature(checkpoint string, answer []byte, v note.Verifier) (string, error) {
	text, _, ok := strings.Cut(checkpoint, "\n\n")
	if !ok {
		return "", errCosignature
	}
	for line := range strings.SplitSeq(string(answer), "\n") {
		n, err := note.Open([]byte(text+"\n\n"+line+"\n"), note.VerifierList(v))
		if err == nil && len(n.Sigs) == 1 {
			return line + "\n", nil
		}
	}
	return "", errCosignature
}

// WitnessStatus says how it stands with a witness.
type WitnessStatus struct {
	Name  string    `json:"name"`
	URL   string    `json:"url"`
	Size  int64     `json:"size" doc:"that it cosigned last, since this process started"`
	At    time.Time `json:"at,omitzero"`
	Error string    `json:"error,omitempty" doc:"why it did not cosign the last one"`
}

func (w *witness) status() WitnessStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	return WitnessStatus{Name: w.verifier.Name(), URL: w.URL, Size: w.size, At: w.at, Error: w.wrong}
}
