package forge

import (
	"encoding/json/v2"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// Pull is a pull request.
type Pull struct {
	Number int    `json:"number"`
	Title  string `json:"title"`
	Head   string `json:"head"` // branch
	Base   string `json:"base"` // branch
	Body   string `json:"body,omitempty"`
	State  string `json:"state"`
	Opened string `json:"opened"`
}

// Deployment is a commit that was brought to an environment.
type Deployment struct {
	ID          int    `json:"id"`
	Ref         string `json:"ref"`
	Environment string `json:"environment"` // staging or production
	Commit      string `json:"commit"`
	At          string `json:"at"`
}

// book keeps pull requests and deployments in a file.
type book struct {
	mu   sync.Mutex
	file string
	now  func() time.Time
	kept struct {
		Pulls       []Pull       `json:"pulls"`
		Deployments []Deployment `json:"deployments"`
	}
}

func openBook(file string, now func() time.Time) (*book, error) {
	b := &book{file: file, now: now}
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return b, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &b.kept)
	}
	if err != nil {
		return nil, fmt.Errorf("forge data: %w", err)
	}
	return b, nil
}

func (b *book) save() error {
	text, err := json.Marshal(b.kept)
	if err != nil {
		return err
	}
	if err := os.WriteFile(b.file+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(b.file+".new", b.file)
}

func (b *book) stamp() string { return b.now().UTC().Format(time.RFC3339) }

func (b *book) pulls() []Pull {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Pull{}, b.kept.Pulls...)
}

func (b *book) deployments() []Deployment {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Deployment{}, b.kept.Deployments...)
}

func (b *book) open(p Pull) (Pull, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p.Number, p.State, p.Opened = len(b.kept.Pulls)+1, "open", b.stamp()
	before := slices.Clone(b.kept.Pulls)
	b.kept.Pulls = append(b.kept.Pulls, p)
	if err := b.save(); err != nil {
		b.kept.Pulls = before
		return Pull{}, err
	}
	return p, nil
}

func (b *book) deploy(d Deployment) (Deployment, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d.ID, d.At = len(b.kept.Deployments)+1, b.stamp()
	before := slices.Clone(b.kept.Deployments)
	b.kept.Deployments = append(b.kept.Deployments, d)
	if err := b.save(); err != nil {
		b.kept.Deployments = before
		return Deployment{}, err
	}
	return d, nil
}
