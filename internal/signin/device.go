package signin

import (
	"context"
	"errors"
	"time"

	"golang.org/x/oauth2"

	"github.com/countersign/countersign/internal/identity"
)

// Device is a sign-in that a person approves on another device (RFC 8628).
type Device struct {
	Handle     string    `json:"handle" doc:"for asking whether it was approved; it holds no secret of its own"`
	UserCode   string    `json:"user_code" doc:"to be typed in at verification_uri"`
	At         string    `json:"verification_uri"`
	AtWithCode string    `json:"verification_uri_complete,omitempty"`
	Interval   int64     `json:"interval" doc:"seconds between two questions"`
	Expires    time.Time `json:"expires"`
}

// deviceLife bounds how long a device sign-in may wait, whatever the provider says.
const deviceLife = 15 * time.Minute

// StartDevice begins a sign-in without a browser on this machine. challenge
// binds its end to who began.
func (s *Service) StartDevice(ctx context.Context, challenge, remote string) (Device, error) {
	switch {
	case !s.On():
		return Device{}, ErrOff
	case !s.o.Identity.AllowLogin(remote):
		return Device{}, identity.ErrLoginLimit
	case len(challenge) != 43:
		return Device{}, ErrRequest.Say("code_challenge: the base64url SHA-256 of a verifier is needed (RFC 7636, S256)")
	}
	c, ctx, err := s.deviceClient(ctx)
	if err != nil {
		return Device{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	d, err := c.DeviceAuth(ctx)
	if err != nil {
		return Device{}, refusedBy(err, ErrDeclined)
	}
	out := Device{UserCode: d.UserCode, At: d.VerificationURI, AtWithCode: d.VerificationURIComplete, Interval: max(d.Interval, 1), Expires: s.o.Now().Add(deviceLife)}
	if d.Interval == 0 {
		out.Interval = 5 // RFC 8628 section 3.2
	}
	if !d.Expiry.IsZero() && d.Expiry.Before(out.Expires) {
		out.Expires = d.Expiry
	}
	out.Handle, err = s.seal("device", sealed{Challenge: challenge, Device: d.DeviceCode, Interval: out.Interval, Expires: out.Expires})
	return out, err
}

func (s *Service) deviceClient(ctx context.Context) (*oauth2.Config, context.Context, error) {
	found, err := s.provider.discover(ctx)
	if err != nil {
		return nil, ctx, err
	}
	if found.Endpoint().DeviceAuthURL == "" {
		return nil, ctx, ErrNoDevice
	}
	c, err := s.provider.client(found, "")
	return c, s.provider.with(ctx), err
}

// FinishDevice asks once, after the interval, whether the sign-in was approved:
// ErrPending if not yet.
func (s *Service) FinishDevice(ctx context.Context, handle, verifier, remote string) (t identity.Token, value string, err error) {
	if !s.On() {
		return t, "", ErrOff
	}
	v, err := s.open("device", handle, ErrTicket)
	if err != nil {
		return t, "", err
	}
	if len(verifier) < 43 || len(verifier) > 128 || !same(Challenge(verifier), v.Challenge) {
		return t, "", ErrTicket
	}
	who, err := s.approved(ctx, v)
	if err != nil {
		if !errors.Is(err, ErrPending) {
			s.refused(ctx, identity.User{}, err, remote)
		}
		return t, "", err
	}
	u, err := s.admit(ctx, who)
	if err != nil {
		s.refused(ctx, u, err, remote)
		return t, "", err
	}
	return s.o.Identity.SessionFor(ctx, u.Name, u.ID, s.o.Config.Issuer, remote)
}

func (s *Service) approved(ctx context.Context, v sealed) (person, error) {
	c, ctx, err := s.deviceClient(ctx)
	if err != nil {
		return person{}, err
	}
	// The library waits for the interval before it asks; twice that is one question.
	ask, cancel := context.WithTimeout(ctx, time.Duration(v.Interval)*1900*time.Millisecond)
	defer cancel()
	found, err := s.provider.discover(ctx)
	if err != nil {
		return person{}, err
	}
	t, err := c.DeviceAccessToken(ask, &oauth2.DeviceAuthResponse{DeviceCode: v.Device, Interval: v.Interval})
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return person{}, ErrPending
	case err != nil:
		return person{}, refusedBy(err, ErrDeclined)
	}
	return s.provider.vouched(ctx, found, t, nil)
}
