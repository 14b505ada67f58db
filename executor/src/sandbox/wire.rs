//! The byte encoding between the builder and a step's init. Both ends are one program, so there is no version.
//!
//! Integers are little-endian, sequences are prefixed with their length as u32, enums start with a tag byte.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// A value that crosses the boundary.
pub(super) trait Wire: Sized {
    /// Appends the encoding.
    fn put(&self, out: &mut Vec<u8>);
    /// Takes one value off the front; `None` where the bytes end or make no sense.
    fn get(bytes: &mut &[u8]) -> Option<Self>;

    /// Returns the encoding.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    /// Decodes exactly one value.
    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let value = Self::get(&mut bytes)?;
        bytes.is_empty().then_some(value)
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(count)?;
    *bytes = tail;
    Some(head)
}

macro_rules! wire_integer {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn get(bytes: &mut &[u8]) -> Option<Self> {
                take(bytes, size_of::<$type>()).map(|raw| <$type>::from_le_bytes(raw.try_into().expect("the size was taken")))
            }
        }
    )*};
}

wire_integer!(u8, u32, i32, u64, i64);

impl Wire for Vec<u8> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        out.extend_from_slice(self);
    }
    fn get(bytes: &mut &[u8]) -> Option<Self> {
        let length = u32::get(bytes)?;
        take(bytes, length as usize).map(<[u8]>::to_vec)
    }
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        out.extend_from_slice(self.as_bytes());
    }
    fn get(bytes: &mut &[u8]) -> Option<Self> {
        String::from_utf8(Vec::get(bytes)?).ok()
    }
}

impl Wire for OsString {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_bytes().to_vec().put(out);
    }
    fn get(bytes: &mut &[u8]) -> Option<Self> {
        Vec::get(bytes).map(OsString::from_vec)
    }
}

impl Wire for PathBuf {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_os_str().as_bytes().to_vec().put(out);
    }
    fn get(bytes: &mut &[u8]) -> Option<Self> {
        OsString::get(bytes).map(PathBuf::from)
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            None => out.push(0),
            Some(value) => {
                out.push(1);
                value.put(out);
            }
        }
    }
    fn get(bytes: &mut &[u8]) -> Option<Self> {
        match u8::get(bytes)? {
            0 => Some(None),
            1 => T::get(bytes).map(Some),
            _ => None,
        }
    }
}

/// Sequences of anything but bytes, which have an encoding of their own.
pub(super) trait Element: Wire {}

impl<T: Element> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        for value in self {
            value.put(out);
        }
    }
    fn get(bytes: &mut &[u8]) -> Option<Self> {
        let count = u32::get(bytes)?;
        (0..count).map(|_| T::get(bytes)).collect()
    }
}

impl Element for u32 {}
impl Element for String {}
impl Element for OsString {}
impl Element for PathBuf {}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn get(bytes: &mut &[u8]) -> Option<Self> {
        Some((A::get(bytes)?, B::get(bytes)?))
    }
}

impl<A: Wire, B: Wire> Element for (A, B) {}

impl<A: Wire, B: Wire, C: Wire> Wire for (A, B, C) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
        self.2.put(out);
    }
    fn get(bytes: &mut &[u8]) -> Option<Self> {
        Some((A::get(bytes)?, B::get(bytes)?, C::get(bytes)?))
    }
}

impl<A: Wire, B: Wire, C: Wire> Element for (A, B, C) {}

/// Implements [`Wire`] for a struct from its field names.
macro_rules! wire_struct {
    ($type:ident { $($field:ident),* $(,)? }) => {
        impl $crate::sandbox::wire::Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::sandbox::wire::Wire::put(&self.$field, out);)*
            }
            fn get(bytes: &mut &[u8]) -> Option<Self> {
                Some($type { $($field: $crate::sandbox::wire::Wire::get(bytes)?),* })
            }
        }
        impl $crate::sandbox::wire::Element for $type {}
    };
}

/// Implements [`Wire`] for an enum from tags, variants and their fields.
macro_rules! wire_enum {
    ($type:ident { $($tag:literal $variant:ident { $($field:tt : $name:ident),* }),* $(,)? }) => {
        impl $crate::sandbox::wire::Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $($type::$variant { $($field: $name),* } => {
                        out.push($tag);
                        $($crate::sandbox::wire::Wire::put($name, out);)*
                    })*
                }
            }
            fn get(bytes: &mut &[u8]) -> Option<Self> {
                match <u8 as $crate::sandbox::wire::Wire>::get(bytes)? {
                    $($tag => {
                        $(let $name = $crate::sandbox::wire::Wire::get(bytes)?;)*
                        Some($type::$variant { $($field: $name),* })
                    })*
                    _ => None,
                }
            }
        }
        impl $crate::sandbox::wire::Element for $type {}
    };
}

pub(super) use {wire_enum, wire_struct};

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Wire + PartialEq + std::fmt::Debug>(value: T) {
        let bytes = value.encode();
        assert_eq!(T::decode(&bytes).as_ref(), Some(&value));
        for cut in 0..bytes.len() {
            assert_eq!(T::decode(&bytes[..cut]), None, "a cut value must not decode");
        }
    }

    #[test]
    fn values_survive_the_wire_and_cut_ones_do_not() {
        check(7_u32);
        check("text".to_owned());
        check(vec![1_u8, 2, 3]);
        check(vec![("a".to_owned(), Some(1_u64)), ("b".to_owned(), None)]);
        check(PathBuf::from(OsString::from_vec(vec![b'/', 0xFF])));
    }
}
