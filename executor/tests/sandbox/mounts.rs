//! What a step sees.
use crate::cases;
cases! {}
