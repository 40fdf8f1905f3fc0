//! The part of Foundation that a Metal client touches: `NSString` and `NSError`.

use super::{down, init, make};
use objc2::rc::{Allocated, Retained};
use objc2::runtime::AnyObject;
use objc2::{ClassType, DefinedClass, Message, define_class};
use objc2_foundation::{NSError, NSObject, NSString};
use objc2_metal::MTLCommandBufferError;
use std::ffi::{CString, c_char, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};

/// `NSUTF8StringEncoding`, of the type that objc2-foundation gives it off Apple's systems.
const UTF8: i32 = 4;

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "NSString"]
    #[ivars = CString]
    pub(crate) struct Text;

    impl Text {
        #[unsafe(method_id(init))]
        fn init(this: Allocated<Self>) -> Option<Retained<Self>> {
            Some(init(this, CString::default()))
        }

        #[unsafe(method_id(initWithBytes:length:encoding:))]
        fn init_with_bytes(this: Allocated<Self>, bytes: *const c_void, len: usize, encoding: i32) -> Option<Retained<Self>> {
            assert!(encoding == UTF8, "strings in encoding {encoding} are not implemented");
            let bytes = if len == 0 {
                &[]
            } else {
                // SAFETY: the caller says that `len` bytes are there.
                unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len) }
            };
            std::str::from_utf8(bytes).ok().map(|text| {
                let text = CString::new(text).expect("strings with zeros are not implemented");
                init(this, text)
            })
        }

        #[unsafe(method(UTF8String))]
        fn utf8_string(&self) -> *const c_char {
            self.ivars().as_ptr()
        }

        #[unsafe(method(lengthOfBytesUsingEncoding:))]
        fn byte_length(&self, encoding: i32) -> usize {
            assert!(encoding == UTF8, "strings in encoding {encoding} are not implemented");
            self.text().len()
        }

        #[unsafe(method(length))]
        fn length(&self) -> usize {
            self.text().encode_utf16().count()
        }

        #[unsafe(method(isEqualToString:))]
        fn is_equal_to_string(&self, other: &NSString) -> bool {
            self.text() == down::<Text, _>(other).text()
        }

        #[unsafe(method(isEqual:))]
        fn is_equal(&self, other: Option<&AnyObject>) -> bool {
            other.is_some_and(|other| other.class() == Text::class() && self.text() == down::<Text, _>(other).text())
        }

        #[unsafe(method(hash))]
        fn hash_value(&self) -> usize {
            let mut hasher = DefaultHasher::new();
            self.text().hash(&mut hasher);
            hasher.finish() as usize
        }

        #[unsafe(method_id(description))]
        fn description(&self) -> Retained<Text> {
            self.retain()
        }

        #[unsafe(method_id(copyWithZone:))]
        fn copy(&self, _zone: *mut c_void) -> Retained<Text> {
            self.retain()
        }
    }
);

impl Text {
    fn text(&self) -> &str {
        self.ivars().to_str().expect("checked when it was made")
    }
}

/// A string without going through messages, for the start of the process.
pub(super) fn string(text: &str) -> Retained<NSString> {
    let text = make::<Text>(CString::new(text).expect("the device's texts have no zeros"));
    // SAFETY: `Text` is the class `NSString`.
    unsafe { Retained::cast_unchecked(text) }
}

pub(crate) struct ErrorIvars {
    domain: &'static str,
    code: isize,
    text: String,
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "NSError"]
    #[ivars = ErrorIvars]
    pub(crate) struct ErrorObject;

    impl ErrorObject {
        #[unsafe(method(code))]
        fn code(&self) -> isize {
            self.ivars().code
        }

        #[unsafe(method_id(domain))]
        fn domain(&self) -> Retained<NSString> {
            string(self.ivars().domain)
        }

        #[unsafe(method_id(localizedDescription))]
        fn localized_description(&self) -> Retained<NSString> {
            string(&self.ivars().text)
        }
    }
);

/// An error.
pub(super) fn error(domain: &'static str, code: isize, text: impl Into<String>) -> Retained<NSError> {
    let error = make::<ErrorObject>(ErrorIvars { domain, code, text: text.into() });
    // SAFETY: `ErrorObject` is the class `NSError`.
    unsafe { Retained::cast_unchecked(error) }
}

/// The error of a command buffer.
pub(super) fn command_buffer_error(code: MTLCommandBufferError, text: &str) -> Retained<NSError> {
    error(super::functions::COMMAND_BUFFER_ERRORS, code.0 as isize, text)
}

/// Hands an error to a caller that may want it.
pub(super) fn give_error(to: *mut *mut NSError, error: Retained<NSError>) {
    if !to.is_null() {
        // SAFETY: the caller's pointer is null or to a variable for the error; the object is the pool's.
        unsafe { to.write(Retained::autorelease_ptr(error)) };
    }
}
