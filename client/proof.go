package client

import (
	"context"
	"encoding/json/jsontext"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// LogKeys are the public keys of the log.
type LogKeys struct {
	Origin    string   `json:"origin"`
	Key       string   `json:"key"`
	First     string   `json:"first"`
	Rotations []string `json:"rotations"`
}

// SealStatus is how the sealing of the log goes.
type SealStatus struct {
	Origin     string         `json:"origin"`
	Size       int64          `json:"size"`
	Checkpoint time.Time      `json:"checkpoint,omitzero"`
	Behind     int64          `json:"behind"`
	Leader     bool           `json:"leader"`
	Blocked    string         `json:"blocked,omitempty"`
	Error      string         `json:"error,omitempty"`
	Witnesses  []WitnessState `json:"witnesses,omitempty"`
}

// WitnessState is how a witness does.
type WitnessState struct {
	Name  string    `json:"name"`
	URL   string    `json:"url"`
	Size  int64     `json:"size"`
	At    time.Time `json:"at,omitzero"`
	Error string    `json:"error,omitempty"`
}

// TreeVerification is what comparing the log with its Merkle tree found.
type TreeVerification struct {
	OK          bool     `json:"ok"`
	Size        int64    `json:"size"`
	Records     int64    `json:"records"`
	Tiles       int64    `json:"tiles"`
	Checkpoints int64    `json:"checkpoints"`
	Problems    []string `json:"problems,omitempty"`
}

// Proof returns the proof file of an event, as bytes to keep.
func (c *Client) Proof(ctx context.Context, event string) ([]byte, error) {
	var out jsontext.Value
	err := c.do(ctx, http.MethodGet, v1+"/log/proof"+segment(event), nil, nil, &out)
	return out, err
}

// LogKeys returns the log's public keys.
func (c *Client) LogKeys(ctx context.Context) (LogKeys, error) {
	var out LogKeys
	err := c.do(ctx, http.MethodGet, v1+"/log/key", nil, nil, &out)
	return out, err
}

// RotateLogKey replaces the key that signs checkpoints.
func (c *Client) RotateLogKey(ctx context.Context) (LogKeys, error) {
	var out LogKeys
	err := c.do(ctx, http.MethodPost, v1+"/log/key/rotate", nil, map[string]string{"reason": c.reason}, &out)
	return out, err
}

// SealStatus returns how the sealing of the log goes.
func (c *Client) SealStatus(ctx context.Context) (SealStatus, error) {
	var out SealStatus
	err := c.do(ctx, http.MethodGet, v1+"/log/status", nil, nil, &out)
	return out, err
}

// AcceptRollback lets sealing go on after a database was restored from an old
// copy, under a new origin and key.
func (c *Client) AcceptRollback(ctx context.Context) (SealStatus, error) {
	var out SealStatus
	err := c.do(ctx, http.MethodPost, v1+"/log/accept-rollback", nil, map[string]string{"reason": c.reason}, &out)
	return out, err
}

// VerifyTree has the server compare every record with the Merkle tree.
func (c *Client) VerifyTree(ctx context.Context) (TreeVerification, error) {
	var out TreeVerification
	err := c.do(ctx, http.MethodPost, v1+"/log/verify-tree", nil, nil, &out)
	return out, err
}

// ExportLog writes the sealed log from index first on to w: JSON Lines that
// tlog.VerifyExport checks offline; with payloads, these too. ErrCutOff if there
// would have been more.
func (c *Client) ExportLog(ctx context.Context, first int64, payloads bool, w io.Writer) error {
	q := url.Values{"first": {strconv.FormatInt(first, 10)}}
	if payloads {
		q.Set("payloads", "true")
	}
	resp, err := c.send(ctx, http.MethodGet, v1+"/log/export", q, nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(w, resp.Body)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || (err == nil && resp.Trailer.Get(complete) != "true") {
		return ErrCutOff
	}
	return err
}

// maxTile bounds a file of the log that LogFile reads, in bytes: an entry
// bundle of 256 entries of at most 64 KiB.
const maxTile = 17 << 20

// LogFile returns a file beneath /log/ (C2SP tlog-tiles), or ok false if there
// is none.
func (c *Client) LogFile(ctx context.Context, path string) (b []byte, ok bool, err error) {
	resp, err := c.send(ctx, http.MethodGet, "/log/"+path, nil, nil, nil)
	if e, is := errors.AsType[*Error](err); is && e.Status == http.StatusNotFound {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer resp.Body.Close()
	b, err = io.ReadAll(io.LimitReader(resp.Body, maxTile))
	return b, true, err
}
