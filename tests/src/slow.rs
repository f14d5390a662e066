//! A caller who opens a request and sends its message later.

use anyhow::Result;
use prost::{
    Message,
    bytes::{Buf, BufMut},
};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{http::uri::PathAndQuery, tokio_stream::Stream},
    transport::Channel,
};

/// A codec that knows nothing but bytes.
#[derive(Clone, Debug, Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length).to_vec()))
    }
}

/// One message, when it is given; HTTP/2 has sent the headers by then.
struct Later(oneshot::Receiver<Vec<u8>>);

impl Stream for Later {
    type Item = Vec<u8>;
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        // A receiver must not be polled after its end.
        if self.0.is_terminated() {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.0).poll(context).map(Result::ok)
    }
}

/// A unary call whose headers are sent and whose message is not.
#[derive(Debug)]
pub struct Begun {
    message: Vec<u8>,
    body: oneshot::Sender<Vec<u8>>,
    answer: JoinHandle<Result<Vec<u8>, Status>>,
}

impl Begun {
    /// Opens the call.
    ///
    /// # Errors
    /// The path is none, or the connection is lost.
    pub async fn open(channel: &Channel, path: &str, message: &impl Message) -> Result<Self> {
        let (body, later) = oneshot::channel();
        let path = PathAndQuery::try_from(path.to_owned())?;
        let mut client = Grpc::new(channel.clone());
        client.ready().await?;
        // On the wire a unary call is a stream of one message.
        let call = async move { client.client_streaming(Request::new(Later(later)), path, Bytes).await };
        let answer = tokio::spawn(async move { call.await.map(tonic::Response::into_inner) });
        Ok(Self { message: message.encode_to_vec(), body, answer })
    }

    /// Sends the message and waits for the answer.
    ///
    /// # Errors
    /// The service's status.
    pub async fn finish(self) -> Result<Vec<u8>> {
        // The service may have answered already and closed the stream.
        let _ = self.body.send(self.message);
        Ok(self.answer.await??)
    }
}
