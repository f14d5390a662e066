//! The part of a call that a fault may read or change: raw as the caller gave it, and as Rust sees it.

use crate::table::LIST;
use cryptoki_sys::*;
use std::slice;

const MANUFACTURER: &str = "Sealwright tests";
const DESCRIPTION: &str = "FAULT INJECTION over another module";

/// Pointers of one call; what they point to belongs to the caller and is there until the call returns.
pub(crate) enum Output {
    Nothing,
    Info(*mut CK_INFO),
    List(*mut *mut CK_FUNCTION_LIST),
    Slots(*mut CK_ULONG),
    Login(CK_USER_TYPE),
    Attributes(*mut CK_ATTRIBUTE, CK_ULONG),
    Search(*mut CK_ATTRIBUTE, CK_ULONG),
    Found(*mut CK_OBJECT_HANDLE, CK_ULONG, *mut CK_ULONG),
    Signature(*mut CK_BYTE, *mut CK_ULONG),
}

/// What a fault can change of an answer that the wrapped module gave.
pub(crate) enum View<'a> {
    /// Nothing.
    Nothing,
    /// The octets of a signature, and the length that the caller is told.
    Signature { octets: &'a mut [u8], length: &'a mut CK_ULONG },
    /// Room for handles, of which the first `count` are found.
    Found { room: &'a mut [CK_OBJECT_HANDLE], count: &'a mut CK_ULONG },
    /// The answer for CKA_EXTRACTABLE.
    Extractable(&'a mut CK_BBOOL),
}

impl Output {
    /// Tells the caller of C_GetSlotList that there are no slots; false for another call.
    ///
    /// # Safety
    /// The pointers are those of a call that has not returned.
    pub(crate) unsafe fn empty_slots(&self) -> bool {
        let Self::Slots(count) = *self else { return false };
        // SAFETY: null, or a count that the caller lets this call write.
        if let Some(count) = unsafe { count.as_mut() } {
            *count = 0;
        }
        true
    }

    /// True when the call begins a search for private keys.
    ///
    /// # Safety
    /// The pointers are those of a call that has not returned.
    pub(crate) unsafe fn seeks_private_keys(&self) -> bool {
        let Self::Search(template, count) = *self else { return false };
        // SAFETY: the caller's template has `count` attributes.
        let template = unsafe { items(template, count) };
        template.iter().any(|attribute| {
            attribute.type_ == CKA_CLASS
                && attribute.ulValueLen as usize == size_of::<CK_OBJECT_CLASS>()
                && !attribute.pValue.is_null()
                // SAFETY: not null, of this length; read_unaligned, since nobody promises the alignment.
                && unsafe { attribute.pValue.cast::<CK_OBJECT_CLASS>().read_unaligned() } == CKO_PRIVATE_KEY
        })
    }

    /// Puts our own name and list into the answers that carry them.
    ///
    /// # Safety
    /// The pointers are those of a call that has not returned, and the wrapped module answered CKR_OK.
    pub(crate) unsafe fn announce(&self) {
        match self {
            Self::Info(info) => {
                // SAFETY: null, or the caller's CK_INFO, which the wrapped module has filled.
                if let Some(info) = unsafe { info.as_mut() } {
                    info.manufacturerID = padded(MANUFACTURER);
                    info.libraryDescription = padded(DESCRIPTION);
                }
            }
            Self::List(list) => {
                // SAFETY: null, or a place for one pointer.
                if let Some(list) = unsafe { list.as_mut() } {
                    // Nobody writes through it, as the standard demands.
                    *list = (&raw const LIST).cast_mut();
                }
            }
            _ => {}
        }
    }

    /// What can be changed after the wrapped module answered `rv`.
    ///
    /// # Safety
    /// The pointers are those of a call that has not returned, and no other view of them is alive.
    pub(crate) unsafe fn view(&self, rv: CK_RV) -> View<'_> {
        // SAFETY: as our own caller promises; each function names its own reasons.
        unsafe {
            match *self {
                Self::Signature(octets, length) if rv == CKR_OK => signature(octets, length),
                Self::Found(objects, room, count) if rv == CKR_OK => found(objects, room, count),
                // Whatever the code is: an attribute that another one spoils may still have been answered.
                Self::Attributes(template, count) => extractable(template, count),
                _ => View::Nothing,
            }
        }
    }
}

/// # Safety
/// Null, or the output of a C_Sign or C_SignFinal that answered CKR_OK.
unsafe fn signature<'a>(octets: *mut CK_BYTE, length: *mut CK_ULONG) -> View<'a> {
    // SAFETY: the caller's length, which the wrapped module has set.
    let Some(length) = (unsafe { length.as_mut() }) else { return View::Nothing };
    // A null pointer asks for the length only.
    if octets.is_null() || *length == 0 {
        return View::Nothing;
    }
    // SAFETY: after CKR_OK so many octets of the caller's buffer are written.
    View::Signature { octets: unsafe { slice::from_raw_parts_mut(octets, *length as usize) }, length }
}

/// # Safety
/// Null, or the output of a C_FindObjects that answered CKR_OK, with `room` for handles.
unsafe fn found<'a>(objects: *mut CK_OBJECT_HANDLE, room: CK_ULONG, count: *mut CK_ULONG) -> View<'a> {
    // SAFETY: the caller's count, which the wrapped module has set.
    let Some(count) = (unsafe { count.as_mut() }) else { return View::Nothing };
    if objects.is_null() || *count == 0 || *count > room {
        return View::Nothing;
    }
    // A slice must be initialised to its end: what is behind the found handles may not be.
    // SAFETY: the caller's array has room for `room` handles, and writing needs no initialised memory.
    unsafe { objects.add(*count as usize).write_bytes(0, (room - *count) as usize) };
    // SAFETY: all `room` handles are initialised now.
    View::Found { room: unsafe { slice::from_raw_parts_mut(objects, room as usize) }, count }
}

/// # Safety
/// Null, or the template of a C_GetAttributeValue that has been answered.
unsafe fn extractable<'a>(template: *mut CK_ATTRIBUTE, count: CK_ULONG) -> View<'a> {
    // SAFETY: the caller's template has `count` attributes.
    let template = unsafe { items(template, count) };
    let asked = template.iter().find(|attribute| attribute.type_ == CKA_EXTRACTABLE && attribute.ulValueLen == 1);
    // SAFETY: null when only the length was asked for; otherwise the wrapped module has written one octet there.
    asked
        .and_then(|attribute| unsafe { attribute.pValue.cast::<CK_BBOOL>().as_mut() })
        .map_or(View::Nothing, View::Extractable)
}

/// # Safety
/// Null, or an array of so many attributes that lives as long as the call.
unsafe fn items<'a>(template: *mut CK_ATTRIBUTE, count: CK_ULONG) -> &'a [CK_ATTRIBUTE] {
    if template.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: not null, and the caller says how many there are.
    unsafe { slice::from_raw_parts(template, count as usize) }
}

/// PKCS#11's texts are filled up with blanks.
fn padded(text: &str) -> [CK_UTF8CHAR; 32] {
    let mut field = [b' '; 32];
    for (place, octet) in field.iter_mut().zip(text.bytes()) {
        *place = octet;
    }
    field
}
