//! Which values are the bytes of a key, a value or a header?

use std::borrow::Cow;

use crate::sync::Arc;

/// The types of a key, a value or a header's value: bytes and text, borrowed or owned, and an
/// `Option` of them, of which `None` is null.
///
/// Numbers are not among them, because each has several forms in bytes, and a reader must know
/// which one it is.
///
/// It is sealed: the crate may add to it, others may not.
///
/// ```
/// # use quipu::Record;
/// let (number, note): (u64, Option<&str>) = (7, None);
/// let record = Record::new(number.to_be_bytes()).key(number.to_string()).header("note", note);
/// assert_eq!(record.value_bytes(), Some(&[0, 0, 0, 0, 0, 0, 0, 7][..]));
/// assert_eq!(record.key_bytes(), Some(&b"7"[..]));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not bytes or text",
    label = "expected bytes or text: for example `&str`, `String`, `&[u8]`, `Vec<u8>`, or an `Option` of them",
    note = "a number: write `n.to_string()` for text, or `n.to_be_bytes()` for bytes; the reader must use the same",
    note = "another type of bytes or text: write `&value[..]` or `value.as_ref()`",
    note = "a structure: serialize it first, for example `serde_json::to_vec(&value)?`"
)]
pub trait IntoBytes<'a>: sealed::Sealed {
    /// The bytes, borrowed if they were; `None` is null.
    fn into_bytes(self) -> Option<Cow<'a, [u8]>>;
}

impl<'a> IntoBytes<'a> for &'a [u8] {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Borrowed(self))
    }
}

impl<'a, const N: usize> IntoBytes<'a> for &'a [u8; N] {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Borrowed(self))
    }
}

impl<'a, const N: usize> IntoBytes<'a> for [u8; N] {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Owned(self.to_vec()))
    }
}

impl<'a> IntoBytes<'a> for &'a Vec<u8> {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Borrowed(self))
    }
}

impl<'a> IntoBytes<'a> for Vec<u8> {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Owned(self))
    }
}

impl<'a> IntoBytes<'a> for &'a Box<[u8]> {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Borrowed(self))
    }
}

impl<'a> IntoBytes<'a> for Box<[u8]> {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Owned(self.into_vec()))
    }
}

impl<'a> IntoBytes<'a> for &'a Arc<[u8]> {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Borrowed(self))
    }
}

impl<'a> IntoBytes<'a> for Arc<[u8]> {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Owned(self.to_vec()))
    }
}

impl<'a> IntoBytes<'a> for &'a str {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Borrowed(self.as_bytes()))
    }
}

impl<'a> IntoBytes<'a> for &'a String {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Borrowed(self.as_bytes()))
    }
}

impl<'a> IntoBytes<'a> for String {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Owned(String::into_bytes(self)))
    }
}

impl<'a> IntoBytes<'a> for &'a Box<str> {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Borrowed(self.as_bytes()))
    }
}

impl<'a> IntoBytes<'a> for Box<str> {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Owned(String::from(self).into_bytes()))
    }
}

impl<'a> IntoBytes<'a> for &'a Arc<str> {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Borrowed(self.as_bytes()))
    }
}

impl<'a> IntoBytes<'a> for Arc<str> {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Owned(self.as_bytes().to_vec()))
    }
}

impl<'a> IntoBytes<'a> for &'a Cow<'_, [u8]> {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Borrowed(self))
    }
}

impl<'a> IntoBytes<'a> for Cow<'a, [u8]> {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(self)
    }
}

impl<'a> IntoBytes<'a> for &'a Cow<'_, str> {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Borrowed(self.as_bytes()))
    }
}

impl<'a> IntoBytes<'a> for Cow<'a, str> {
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(match self {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(String::into_bytes(text)),
        })
    }
}

/// As an iterator over a slice of them gives it.
impl<'a> IntoBytes<'a> for &&'a str {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        (*self).into_bytes()
    }
}

/// As an iterator over a slice of them gives it.
impl<'a> IntoBytes<'a> for &&'a [u8] {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        (*self).into_bytes()
    }
}

/// Without a copy.
#[cfg(feature = "bytes")]
#[cfg_attr(docsrs, doc(cfg(feature = "bytes")))]
impl<'a> IntoBytes<'a> for &'a bytes::Bytes {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Borrowed(self))
    }
}

/// Without a copy if no other `Bytes` shares the buffer.
#[cfg(feature = "bytes")]
#[cfg_attr(docsrs, doc(cfg(feature = "bytes")))]
impl<'a> IntoBytes<'a> for bytes::Bytes {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        Some(Cow::Owned(self.into()))
    }
}

/// `None` is null.
impl<'a, B: IntoBytes<'a>> IntoBytes<'a> for Option<B> {
    #[inline]
    fn into_bytes(self) -> Option<Cow<'a, [u8]>> {
        self?.into_bytes()
    }
}

mod sealed {
    use std::borrow::Cow;

    use crate::sync::Arc;

    pub trait Sealed {}

    impl Sealed for &[u8] {}
    impl<const N: usize> Sealed for &[u8; N] {}
    impl<const N: usize> Sealed for [u8; N] {}
    impl Sealed for &Vec<u8> {}
    impl Sealed for Vec<u8> {}
    impl Sealed for &Box<[u8]> {}
    impl Sealed for Box<[u8]> {}
    impl Sealed for &Arc<[u8]> {}
    impl Sealed for Arc<[u8]> {}
    impl Sealed for &str {}
    impl Sealed for &String {}
    impl Sealed for String {}
    impl Sealed for &Box<str> {}
    impl Sealed for Box<str> {}
    impl Sealed for &Arc<str> {}
    impl Sealed for Arc<str> {}
    impl Sealed for &Cow<'_, [u8]> {}
    impl Sealed for Cow<'_, [u8]> {}
    impl Sealed for &Cow<'_, str> {}
    impl Sealed for Cow<'_, str> {}
    #[cfg(feature = "bytes")]
    impl Sealed for &bytes::Bytes {}
    #[cfg(feature = "bytes")]
    impl Sealed for bytes::Bytes {}
    impl Sealed for &&str {}
    impl Sealed for &&[u8] {}
    impl<B: Sealed> Sealed for Option<B> {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borrowed_bytes_stay_borrowed() {
        let (bytes, text) = (b"abc".as_slice(), "abc");
        let (boxed, shared): (Box<[u8]>, Arc<[u8]>) = (bytes.into(), bytes.into());
        let (boxed_text, shared_text): (Box<str>, Arc<str>) = (text.into(), text.into());
        let (cow, cow_text) = (Cow::Borrowed(bytes), Cow::Borrowed(text));
        let borrowed = [
            (&boxed).into_bytes(),
            (&shared).into_bytes(),
            (&boxed_text).into_bytes(),
            (&shared_text).into_bytes(),
            (&cow).into_bytes(),
            (&cow_text).into_bytes(),
            IntoBytes::into_bytes(bytes),
            IntoBytes::into_bytes(text),
            IntoBytes::into_bytes(Some(text)),
        ];
        assert!(borrowed.iter().all(|bytes| matches!(bytes, Some(Cow::Borrowed(b"abc")))));
    }

    #[test]
    fn owned_bytes_are_taken_over_and_shared_ones_copied() {
        let (bytes, text): (Box<[u8]>, Box<str>) = (b"abc".as_slice().into(), "abc".into());
        let (at, text_at) = (bytes.as_ptr(), text.as_ptr());
        let taken = [(bytes.into_bytes(), at), (text.into_bytes(), text_at)];
        assert!(taken.iter().all(|(taken, at)| taken.as_ref().unwrap().as_ptr() == *at));
        let (shared, shared_text): (Arc<[u8]>, Arc<str>) = (b"abc".as_slice().into(), "abc".into());
        let copied = [shared.into_bytes(), shared_text.into_bytes()];
        assert!(copied.iter().all(|bytes| bytes.as_deref() == Some(b"abc")));
        assert_eq!(None::<&str>.into_bytes(), None);
    }
}
