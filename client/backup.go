package client

import (
	"context"
	"io"
	"net/http"
	"time"
)

// Restored is one time that the server's database was filled from a backup.
type Restored struct {
	ID        string    `json:"id"`
	Taken     time.Time `json:"taken"` // when the backup was
	Restored  time.Time `json:"restored"`
	Resumed   time.Time `json:"resumed,omitzero"` // when a person let work go on
	ResumedBy string    `json:"resumed_by,omitempty"`
}

// Backup takes a backup, encrypted to age recipients. The caller closes it, and
// must verify what it read: an answer that was cut off is no backup.
func (c *Client) Backup(ctx context.Context, recipients []string) (io.ReadCloser, error) {
	resp, err := c.send(ctx, http.MethodPost, v1+"/backups", nil, map[string][]string{"recipients": recipients}, nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// ResumeRestored lets a database that was restored from a backup work.
func (c *Client) ResumeRestored(ctx context.Context) ([]Restored, error) {
	return send[[]Restored](ctx, c, http.MethodPost, v1+"/backups/resume", map[string]any{})
}
