//! Who a step is.
use crate::cases;
cases! {}
