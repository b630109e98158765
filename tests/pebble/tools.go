// Package pebble holds what judges our certificates: Let's Encrypt's own test authority, the DNS server that it asks, and
// the ACME client inside derper.
package pebble
