package export

import (
	"context"
	"net/url"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// overGRPC speaks OTLP/gRPC.
type overGRPC struct {
	t    *Target
	conn *grpc.ClientConn
	md   metadata.MD
}

func newGRPC(t *Target) (*overGRPC, error) {
	u, err := url.Parse(t.URL)
	if err != nil {
		return nil, ErrTarget.With(err)
	}
	conf, err := t.tls()
	if err != nil {
		return nil, err
	}
	creds, port := credentials.NewTLS(conf), "443"
	if u.Scheme == "http" {
		creds, port = insecure.NewCredentials(), "4317"
	}
	host := u.Host
	if u.Port() == "" {
		host += ":" + port
	}
	conn, err := grpc.NewClient("passthrough:///"+host, grpc.WithTransportCredentials(creds), grpc.WithUserAgent(serviceName), grpc.WithDisableServiceConfig())
	if err != nil {
		return nil, ErrTarget.Say("export target %s: its url cannot be used for gRPC", t.Name).With(err)
	}
	return &overGRPC{t, conn, metadata.New(t.Headers)}, nil
}

func (g *overGRPC) close() { _ = g.conn.Close() } // a second time does nothing

func (g *overGRPC) post(ctx context.Context, to signal, req, resp proto.Message) error {
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(ctx, g.md), g.t.Timeout)
	defer cancel()
	opts := []grpc.CallOption{grpc.MaxCallRecvMsgSize(maxAnswer)}
	if !g.t.Plain {
		opts = append(opts, grpc.UseCompressor(gzip.Name))
	}
	err := g.conn.Invoke(ctx, to.method, req, resp, opts...)
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	told := strings.TrimSpace("the target answers " + st.Code().String() + ": " + st.Message())
	if st.Code() == codes.ResourceExhausted && strings.Contains(st.Message(), "larger than max") {
		return &refusal{problem: told, content: true} // what grpc says of a message over the receiver's limit
	}
	switch st.Code() { // OTLP/gRPC, failures: retryable, and, because nothing is dropped here, unexplained ones
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss, codes.ResourceExhausted, codes.Unknown, codes.Internal:
		return &later{problem: told, after: asked(st)}
	case codes.InvalidArgument, codes.FailedPrecondition:
		return &refusal{problem: told, content: true}
	}
	return &refusal{problem: told}
}

// asked is the pause that a target asks for.
func asked(st *status.Status) time.Duration {
	for _, d := range st.Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok {
			return max(0, r.GetRetryDelay().AsDuration())
		}
	}
	return 0
}
