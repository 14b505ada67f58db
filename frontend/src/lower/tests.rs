//! Tests of lowering, from text to definition.
