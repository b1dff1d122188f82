package export

import (
	"bytes"
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"io"

	"github.com/countersign/countersign/internal/audit"
)

// How many records are read at once for a download.
const (
	downloadPage      = 500
	downloadPageLarge = 50 // with payloads
)

// Download writes the events that q selects, oldest first, one JSON object a
// line: the log's own bytes, or OCSF if format says so. Each write holds whole
// lines.
func (s *Service) Download(ctx context.Context, q audit.Query, format string, w io.Writer) error {
	m := &Mapper{Version: s.o.Version, Kind: s.o.Kind, Payloads: q.Payloads}
	line := m.OCSF
	if format != OCSF {
		line = m.plain
	}
	q.Oldest, q.Limit = true, downloadPage
	if q.Payloads {
		q.Limit = downloadPageLarge
	}
	var page bytes.Buffer
	for {
		recs, err := s.log.List(ctx, q)
		if err != nil {
			return err
		}
		page.Reset()
		for i := range recs {
			b, err := line(&recs[i])
			if err != nil {
				return err
			}
			page.Write(b)
			page.WriteByte('\n')
		}
		if page.Len() > 0 {
			if _, err := w.Write(page.Bytes()); err != nil {
				return err
			}
		}
		if len(recs) < q.Limit {
			return nil
		}
		q.After = recs[len(recs)-1].Event.ID
	}
}

// plain is the event as the log holds it, and the bodies beside it if they are
// wanted.
func (m *Mapper) plain(r *audit.Record) ([]byte, error) {
	if !m.Payloads {
		return r.Raw, nil
	}
	var o ocsfEvent
	o.unmapped(m, r)
	b, err := json.Marshal(o.Unmapped, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return nil, fmt.Errorf("event %s: %w", r.Event.ID, err)
	}
	return b, nil
}
