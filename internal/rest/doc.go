// Package rest is the one shape of every API operation: find out who asks,
// decode, check the role, call, encode, and turn a fault into an RFC 9457
// problem document, once. Rooms declare their operations with Handle in their
// http.go; the OpenAPI document follows from the declarations.
package rest
