package seal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/tlog"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/rest"
)

type proofRequest struct {
	Event string `path:"event" maxLength:"64"`
}

type checkpointsRequest struct {
	Before int64 `query:"before" minimum:"0" doc:"the size of the last checkpoint of the page before"`
	Limit  int   `query:"limit" minimum:"0" maximum:"1000" doc:"100 if empty"`
}

type exportRequest struct {
	First    int64 `query:"first" minimum:"0" doc:"index of the first record; all if empty"`
	Payloads bool  `query:"payloads" doc:"with the bodies beside events and the salts of their commitments; it is recorded who asked"`
}

type reasonRequest struct {
	Body struct {
		Reason string `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
	}
}

func (r reasonRequest) reason(c rest.Caller) string {
	if r.Body.Reason != "" {
		return r.Body.Reason
	}
	return c.Reason
}

// Verification is what comparing the log with its tree found.
type Verification struct {
	OK          bool     `json:"ok"`
	Size        int64    `json:"size" doc:"records sealed"`
	Records     int64    `json:"records" doc:"compared"`
	Tiles       int64    `json:"tiles"`
	Checkpoints int64    `json:"checkpoints"`
	Problems    []string `json:"problems,omitempty" doc:"where, and what is wrong there"`
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	const path, tag = "/api/v1/log", "log"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/proof/{event}", Summary: "Prove that an event is in the log", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *proofRequest) (*tlog.ProofFile, error) {
			f, err := s.Prove(ctx, r.Event)
			return &f, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/checkpoints", Summary: "List signed tree heads, newest first", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *checkpointsRequest) (*[]Checkpoint, error) {
			cs, err := s.Checkpoints(ctx, r.Before, r.Limit)
			return &cs, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/key", Summary: "Show the log's public keys", Tag: tag, Need: rest.Public},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*Keys, error) {
			k, err := s.Keys(ctx)
			return &k, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/status", Summary: "Show how the sealing goes", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*Status, error) {
			st, err := s.Status(ctx)
			return &st, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/key/rotate", Summary: "Replace the log's key", Tag: tag, Need: rest.Govern},
		func(ctx context.Context, c rest.Caller, r *reasonRequest) (*Keys, error) {
			if err := s.RotateKey(ctx, audit.Person(c.ID, c.Name), r.reason(c)); err != nil {
				return nil, err
			}
			k, err := s.Keys(ctx)
			return &k, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/accept-rollback", Summary: "Accept what a restored database lost, under a new origin and key", Tag: tag, Need: rest.Govern},
		func(ctx context.Context, c rest.Caller, r *reasonRequest) (*Status, error) {
			if err := s.Accept(ctx, audit.Person(c.ID, c.Name), r.reason(c)); err != nil {
				return nil, err
			}
			st, err := s.Status(ctx)
			return &st, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/verify-tree", Summary: "Compare every record with the Merkle tree and its checkpoints", Tag: tag, Need: rest.Inspect}, s.serveVerify)
	rest.HandleStream(api, rest.Op{Method: http.MethodGet, Path: path + "/export", Summary: "Export the sealed log, verifiable offline", Tag: tag, Need: rest.Inspect}, "application/jsonl",
		s.serveExport)
}

// complete is the trailer of an export that reached its end.
const complete = "X-Countersign-Complete"

func (s *Service) serveExport(ctx context.Context, c rest.Caller, r *exportRequest) (rest.Stream, error) {
	if r.Payloads {
		_, err := s.log.Append(ctx, audit.Event{Type: "payload.exported", Actor: audit.Person(c.ID, c.Name), Object: "export/sealed", Reason: c.Reason, Remote: c.Remote, Credential: c.Credential,
			Detail: []byte(`{"format":"log","first":` + decimal(r.First) + `}`)})
		if err != nil {
			return nil, err
		}
	}
	if err := s.caughtUp(ctx); err != nil {
		return nil, err
	}
	return func(w http.ResponseWriter) error {
		w.Header().Set("Trailer", complete)
		if err := s.Export(ctx, r.First, r.Payloads, w); err != nil {
			return err
		}
		w.Header().Set(complete, "true")
		return nil
	}, nil
}

func (s *Service) serveVerify(ctx context.Context, _ rest.Caller, _ *struct{}) (*Verification, error) {
	rep, err := s.Verify(ctx, nil)
	v := Verification{OK: len(rep.Problems) == 0, Size: rep.Size, Records: rep.Records, Tiles: rep.Tiles, Checkpoints: rep.Checkpoints}
	for _, p := range rep.Problems {
		v.Problems = append(v.Problems, p.Error())
	}
	return &v, err
}

// Checkpoints returns signed tree heads, newest first: smaller than before, if
// that is not 0; 100 if limit is 0, at most 1,000.
func (s *Service) Checkpoints(ctx context.Context, before int64, limit int) ([]Checkpoint, error) {
	if limit <= 0 {
		limit = 100
	}
	cs, err := s.store.checkpoints(ctx, ` WHERE $1 = 0 OR size < $1 ORDER BY size DESC LIMIT $2`, before, min(limit, 1000))
	if err != nil {
		return nil, err
	}
	return cs, s.store.cosign(ctx, cs)
}

// Handler serves the log to the public beneath /log/, as C2SP tlog-tiles asks:
// checkpoint and tiles. Entry bundles hold the events themselves and are
// served only to requests that may, which is asked for each.
func (s *Service) Handler(may func(*http.Request) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "the log is read with GET", http.StatusMethodNotAllowed)
			return
		}
		path := strings.TrimPrefix(r.URL.Path, "/log/")
		if path == "checkpoint" {
			s.serveCheckpoint(w, r)
			return
		}
		t, err := tlog.ParseTile(path)
		switch {
		case err != nil:
			refuse(w, ErrNoTile)
		case t.Level == tlog.Entries && (may == nil || !may(r)):
			h.Set("WWW-Authenticate", `Bearer realm="countersign"`)
			refuse(w, rest.ErrNoToken)
		default:
			s.serveTile(w, r, t)
		}
	})
}

func (s *Service) serveCheckpoint(w http.ResponseWriter, r *http.Request) {
	c, err := s.store.newest(r.Context())
	if err == nil && c == nil {
		err = ErrNoTile.Say("nothing is sealed yet")
	}
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "max-age=1")
	_, _ = io.WriteString(w, c.Note) // the reader went away
}

func (s *Service) serveTile(w http.ResponseWriter, r *http.Request, t tlog.Tile) {
	read := s.store.tile
	scope := "public"
	if t.Level == tlog.Entries {
		read, scope = s.bundle, "private"
	}
	b, err := read(r.Context(), t)
	if err != nil {
		refuse(w, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Cache-Control", scope+", max-age=31536000, immutable")
	if t.Width < tlog.TileWidth {
		h.Set("Cache-Control", scope+", max-age=3600, immutable") // superseded by the full tile
	}
	h.Set("Content-Length", strconv.Itoa(len(b)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(b) // the reader went away
	}
}

func refuse(w http.ResponseWriter, err error) {
	f := fault.Public(err)
	http.Error(w, f.Message, f.Kind.Status())
}

// newPost returns how witnesses are reached: no redirect is followed, since
// the operator named the address.
func newPost() post {
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return func(ctx context.Context, url, body string) (int, []byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
		if err != nil {
			return 0, nil, errors.New("its URL cannot be used")
		}
		req.Header.Set("Content-Type", "text/plain; charset=utf-8")
		resp, err := client.Do(req)
		if err != nil {
			return 0, nil, err
		}
		defer resp.Body.Close()
		var b bytes.Buffer
		if _, err := io.Copy(&b, io.LimitReader(resp.Body, maxAnswer)); err != nil {
			return 0, nil, err
		}
		return resp.StatusCode, b.Bytes(), nil
	}
}
