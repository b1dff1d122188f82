package secrets

import (
	"context"
	"encoding/json/v2"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
)

// Errors about what is made of secrets.
var (
	ErrKind   = fault.New(fault.Invalid, "secret_kind_unknown", "secrets of this kind are not known here")
	ErrMint   = fault.New(fault.Upstream, "credential_not_issued", "the provider did not issue a credential")
	ErrSource = fault.New(fault.Unavailable, "secret_source", "where the secret is kept, it could not be read")
)

// Source finds values that are kept outside: provider/env, file, vault.
type Source interface {
	// Check says what is wrong with a reference, without looking whether there
	// is anything. ref is what follows SCHEME://.
	Check(ref string) error
	// Read returns the value and how long it may be used before it is read
	// again; 0 means once.
	Read(ctx context.Context, ref string) (v Value, good time.Duration, err error)
}

// Minter makes credentials that end by themselves: of a stored value, or of
// none.
type Minter interface {
	// Check says what is wrong with the settings of a secret of its kind. It
	// must refuse those that it does not know.
	Check(spec Spec) error
	// Traits are the same for all secrets of its kind.
	Traits() Traits
	// Mint makes a credential. It may be called again while others of the same
	// secret are in use. Its errors never hold a value.
	Mint(ctx context.Context, m Material) (Minted, error)
}

// Traits of a Minter.
type Traits struct {
	Bare bool // its secrets have no value
	Each bool // each agent gets a credential of its own
}

// Material is what a credential is made of.
type Material struct {
	Secret Secret
	Value  Value // stored; the Minter must not keep it
	Use    Use   // what first needs it
}

// Minted is a credential that ends.
type Minted struct {
	Value   Value
	Expires time.Time // zero: not known, so it is used once
	Detail  map[string]string
	// Release ends it before its time, in the background; may be nil.
	Release func(reason string)
}

// Handle registers the Minter of a kind. It must be called before the Service
// is used.
func (s *Service) Handle(kind string, m Minter) { s.minters[kind] = m }

// From registers the Source of a scheme. It must be called before the Service
// is used.
func (s *Service) From(scheme string, src Source) { s.sources[scheme] = src }

// Rotates registers a rotator's check of settings. It must be called before the
// Service is used.
func (s *Service) Rotates(by string, check func(Spec) error) { s.rotators[by] = check }

// known checks what Normalize cannot: kinds, sources and rotators that this
// server knows, and their settings.
func (s *Service) known(spec Spec) error {
	if spec.Kind != KindValue {
		m := s.minters[spec.Kind]
		if m == nil {
			return ErrKind.Say("kind: %q is not known here; there is %s", spec.Kind, listed(s.minters))
		}
		if m.Traits().Bare && spec.Source != "" {
			return ErrInvalid.Say("source: a secret of kind %s has no value", spec.Kind)
		}
		if err := m.Check(spec); err != nil {
			return err
		}
	}
	if spec.Source != "" {
		src, rest, err := s.source(spec.Source)
		if err != nil {
			return err
		}
		if err := src.Check(rest); err != nil {
			return err
		}
	}
	if by := spec.Rotation["by"]; by != "" {
		check := s.rotators[by]
		if check == nil {
			return ErrKind.Say("rotation: there is no rotator %q here; there is %s", by, listed(s.rotators))
		}
		return check(spec)
	}
	return nil
}

func listed[V any](m map[string]V) string {
	if len(m) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}

// NeedsValue reports whether the store must hold a value for such a secret.
func (s *Service) NeedsValue(spec Spec) bool {
	m := s.minters[spec.Kind]
	return spec.Source == "" && (m == nil || !m.Traits().Bare)
}

func (s *Service) source(at string) (Source, string, error) {
	scheme, rest, ok := strings.Cut(at, "://")
	src := s.sources[scheme]
	if !ok || src == nil {
		return nil, "", ErrKind.Say("source: must be SCHEME://REST, where SCHEME is one of %s", listed(s.sources))
	}
	return src, rest, nil
}

// sourced returns the value of a secret that is kept elsewhere.
func (s *Service) sourced(ctx context.Context, sec Secret) (Value, error) {
	got, err := s.minted.get(ctx, cacheKey{sec.ID, "source"}, sec.stamp(), func(ctx context.Context) (Minted, error) {
		src, rest, err := s.source(sec.Source)
		if err != nil {
			return Minted{}, err
		}
		v, good, err := src.Read(ctx, rest)
		if err == nil {
			err = checkValue(v)
		}
		if err != nil {
			return Minted{}, ErrSource.Say("the secret %s: %s", sec.Name, fault.Public(err).Message).With(err)
		}
		learn(s.matcher, sec.Name, v)
		m := Minted{Value: v}
		if good > 0 {
			m.Expires = s.now().Add(good)
		}
		return m, nil
	})
	return got.value, err
}

// root returns the value of a secret: the stored one, if it still is that
// version, or what is found elsewhere.
func (s *Service) root(ctx context.Context, sec Secret) (Value, error) {
	if sec.Source != "" {
		return s.sourced(ctx, sec)
	}
	s.live.mu.RLock()
	defer s.live.mu.RUnlock()
	now := s.live.secrets[sec.Name]
	if now == nil || now.ID != sec.ID || now.Version != sec.Version {
		return Value{}, ErrStale
	}
	return now.value.Clone(), nil
}

// issue returns what is made of a secret for a use.
func (s *Service) issue(ctx context.Context, sec Secret, u Use) (issued, error) {
	if sec.Kind == KindValue {
		v, err := s.root(ctx, sec)
		stamp := sec.stamp()
		if sec.Source != "" {
			stamp += "#" + s.minted.fingerprint(v)
		}
		return issued{value: v, stamp: stamp}, err
	}
	m := s.minters[sec.Kind]
	if m == nil {
		return issued{}, ErrKind.Say("the secret %s is of the kind %s, which is not known here", sec.Name, sec.Kind)
	}
	key := cacheKey{sec.ID, "for all"}
	if m.Traits().Each {
		key.use = "for " + u.Agent
	}
	return s.minted.get(ctx, key, sec.stamp(), func(ctx context.Context) (Minted, error) {
		root, err := s.root(ctx, sec)
		if err != nil {
			return Minted{}, err
		}
		defer root.Wipe()
		return s.mint(ctx, m, sec, root, u)
	})
}

// mint makes a credential and records that, before it can be used.
func (s *Service) mint(ctx context.Context, m Minter, sec Secret, root Value, u Use) (Minted, error) {
	made, err := m.Mint(ctx, Material{Secret: sec, Value: root, Use: u})
	if err != nil {
		s.logger.Warn("a credential could not be made", "secret", sec.Name, "kind", sec.Kind, "error", err)
		return Minted{}, err
	}
	s.minted.learn(sec.Name, made)
	detail := map[string]string{"kind": sec.Kind, "version": strconv.FormatInt(sec.Version, 10)}
	maps.Copy(detail, made.Detail)
	if !made.Expires.IsZero() {
		detail["expires"] = made.Expires.UTC().Format(time.RFC3339)
	}
	raw, err := json.Marshal(detail, json.Deterministic(true))
	if err != nil {
		return Minted{}, err
	}
	ev := audit.Event{Type: "secret.issued", Actor: audit.System, Agent: u.Agent, Call: u.Call, Owner: sec.Owner, Connection: sec.Connection, Object: "secret/" + sec.Name, Detail: raw}
	if _, err := s.log.Append(ctx, ev); err != nil {
		if made.Release != nil {
			made.Release("it could not be recorded")
		}
		return Minted{}, err
	}
	return made, nil
}

// stamp changes whenever the value or what is made of it may be another.
func (s Secret) stamp() string {
	return strconv.FormatInt(s.Version, 10) + "/" + s.Rotated.Format(time.RFC3339Nano) + "/" + string(s.context())
}
