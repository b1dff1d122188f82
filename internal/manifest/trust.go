package manifest

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/tokens"
)

// TrustSpec trusts an issuer to say who an agent is.
type TrustSpec struct {
	Agent        string            `yaml:"agent" need:"true"`
	Issuer       string            `yaml:"issuer" need:"true"`
	Audience     string            `yaml:"audience,omitempty"`
	Subject      string            `yaml:"subject" need:"true"`
	Wildcard     string            `yaml:"wildcard,omitempty"`
	User         string            `yaml:"user,omitempty"`
	Claims       map[string]string `yaml:"claims,omitempty"`
	JWKS         string            `yaml:"jwks,omitempty"`
	JWKSURL      string            `yaml:"jwks_url,omitempty"`
	CA           string            `yaml:"ca,omitempty"`
	AllowPrivate bool              `yaml:"allow_private,omitempty"`
	RunLife      Duration          `yaml:"run_life,omitempty"`
}

func (s *TrustSpec) rule(name string) tokens.Rule {
	return tokens.Rule{Name: name, Agent: s.Agent, Issuer: s.Issuer, Audience: s.Audience, Subject: s.Subject, Wildcard: s.Wildcard, User: s.User, Claims: s.Claims,
		JWKS: s.JWKS, JWKSURL: s.JWKSURL, CA: s.CA, Private: s.AllowPrivate, RunLife: time.Duration(s.RunLife)}
}

// trustSpec leaves the usual life of runs out.
func trustSpec(r tokens.Rule) *TrustSpec {
	if r.RunLife == tokens.RunUsual {
		r.RunLife = 0
	}
	return &TrustSpec{Agent: r.Agent, Issuer: r.Issuer, Audience: r.Audience, Subject: r.Subject, Wildcard: r.Wildcard, User: r.User, Claims: r.Claims,
		JWKS: r.JWKS, JWKSURL: r.JWKSURL, CA: r.CA, AllowPrivate: r.Private, RunLife: Duration(r.RunLife)}
}

// settledTrust returns a rule as the room will store it.
func settledTrust(name string, spec *TrustSpec) (*TrustSpec, error) {
	r, err := spec.rule(name).Normalize()
	if err != nil {
		return nil, err
	}
	return trustSpec(r), nil
}

func (st *state) trust(ctx context.Context, s *Service) error {
	rules, err := s.o.Tokens.Rules(ctx)
	for _, r := range rules {
		st.specs[key{KindTrust, r.Name}] = trustSpec(r)
	}
	return err
}
