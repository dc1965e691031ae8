#include "proto/stubs/etcd_stub.h"

#include <atomic>
#include <utility>

#include "absl/functional/function_ref.h"
#include "etcd/etcd.grpc.pb.h"
#include "proto/stubs/caller.h"
#include "proto/stubs/endpoint.h"

namespace muond {
namespace {

namespace pb = etcdserverpb;

// The first key behind all that start with `prefix`; one zero byte means: to the end.
std::string BehindPrefix(std::string prefix) {
  while (!prefix.empty() && static_cast<unsigned char>(prefix.back()) == 0xff) prefix.pop_back();
  if (prefix.empty()) return std::string(1, '\0');
  prefix.back() = static_cast<char>(static_cast<unsigned char>(prefix.back()) + 1);
  return prefix;
}

bool Away(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

void ToProto(const EtcdOp& op, pb::RequestOp* message) {
  if (op.kind == EtcdOp::Kind::kPut) {
    pb::PutRequest& put = *message->mutable_request_put();
    put.set_key(op.key);
    put.set_value(op.value);
    put.set_lease(op.lease);
    return;
  }
  pb::DeleteRangeRequest& erase = *message->mutable_request_delete_range();
  erase.set_key(op.key);
  if (op.kind == EtcdOp::Kind::kErasePrefix) erase.set_range_end(BehindPrefix(op.key));
}

EtcdValue FromProto(const pb::KeyValue& pair) {
  return {pair.key(), pair.value(), pair.create_revision()};
}

}  // namespace

struct EtcdStub::Impl {
  struct Member {
    Caller<pb::KV> kv;
    std::unique_ptr<pb::Lease::Stub> lease;
  };
  std::vector<Member> members;
  std::atomic<size_t> at{0};  // the member that answered last

  // `call` at one member after the other until one answers.
  absl::Status Ask(absl::FunctionRef<absl::Status(Member& member)> call) {
    absl::Status status;
    for (size_t tried = 0; tried < members.size(); ++tried) {
      const size_t now = at.load();
      status = call(members[now]);
      if (!Away(status)) return status;
      size_t expected = now;
      at.compare_exchange_strong(expected, (now + 1) % members.size());
    }
    return status;
  }

  absl::Status Range(const pb::RangeRequest& request, pb::RangeResponse* response) {
    return Ask([&](Member& member) {
      return member.kv.Call(&pb::KV::Stub::Range, request, response, {});
    });
  }
};

EtcdStub::EtcdStub(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
EtcdStub::~EtcdStub() = default;

absl::StatusOr<std::unique_ptr<EtcdStub>> EtcdStub::Create(const std::string& endpoints,
                                                           const StubOptions& options) {
  auto impl = std::make_unique<Impl>();
  StubOptions waiting = options;
  waiting.wait_for_ready = true;  // a member that is there again is used at once
  const absl::StatusOr<std::vector<std::string>> list = SplitEndpoints(endpoints);
  if (!list.ok()) return list.status();
  for (const std::string& endpoint : *list) {
    Impl::Member& member = impl->members.emplace_back();
    const absl::Status status = member.kv.Open(endpoint, "etcd", waiting);
    if (!status.ok()) return status;
    member.lease = pb::Lease::NewStub(member.kv.peer.channel);
  }
  return std::unique_ptr<EtcdStub>(new EtcdStub(std::move(impl)));
}

absl::StatusOr<std::vector<EtcdValue>> EtcdStub::Scan(const std::string& prefix) {
  // In pages of one revision, so that an answer stays below gRPC's limit.
  std::vector<EtcdValue> found;
  pb::RangeRequest request;
  request.set_key(prefix.empty() ? std::string(1, '\0') : prefix);
  request.set_range_end(BehindPrefix(prefix));
  request.set_limit(64);
  while (true) {
    pb::RangeResponse response;
    if (absl::Status status = impl_->Range(request, &response); !status.ok()) return status;
    for (const pb::KeyValue& pair : response.kvs()) found.push_back(FromProto(pair));
    if (!response.more() || response.kvs().empty()) return found;
    request.set_key(found.back().key + std::string(1, '\0'));
    if (request.revision() == 0) request.set_revision(response.header().revision());
  }
}

absl::StatusOr<EtcdValue> EtcdStub::Get(const std::string& key) {
  pb::RangeRequest request;
  request.set_key(key);
  pb::RangeResponse response;
  if (absl::Status status = impl_->Range(request, &response); !status.ok()) return status;
  return response.kvs().empty() ? EtcdValue() : FromProto(response.kvs(0));
}

absl::StatusOr<EtcdStub::Outcome> EtcdStub::Transact(const EtcdCondition& condition,
                                                     const std::vector<EtcdOp>& ops) {
  pb::TxnRequest request;
  pb::Compare& compare = *request.add_compare();
  compare.set_target(pb::Compare::CREATE);
  compare.set_key(condition.key);
  compare.set_create_revision(condition.create_revision);
  for (const EtcdOp& op : ops) ToProto(op, request.add_success());
  pb::TxnResponse response;
  // At one member alone: what one may have done is not asked of another.
  Impl::Member& member = impl_->members[impl_->at.load()];
  const absl::Status status = member.kv.Call(&pb::KV::Stub::Txn, request, &response, {});
  if (!status.ok()) return status;
  return Outcome{response.succeeded(), response.header().revision()};
}

absl::StatusOr<int64_t> EtcdStub::Grant(absl::Duration ttl) {
  pb::LeaseGrantRequest request;
  request.set_ttl(absl::ToInt64Seconds(ttl));
  pb::LeaseGrantResponse response;
  const absl::Status status = impl_->Ask([&](Impl::Member& member) {
    grpc::ClientContext context;
    member.kv.peer.Prepare(context, {});
    return member.kv.peer.Explain(member.lease->LeaseGrant(&context, request, &response), {});
  });
  if (!status.ok()) return status;
  return response.id();
}

absl::StatusOr<absl::Duration> EtcdStub::KeepAlive(int64_t lease) {
  pb::LeaseKeepAliveRequest request;
  request.set_id(lease);
  pb::LeaseKeepAliveResponse response;
  const absl::Status status = impl_->Ask([&](Impl::Member& member) {
    grpc::ClientContext context;
    member.kv.peer.Prepare(context, {});
    const auto stream = member.lease->LeaseKeepAlive(&context);
    const bool answered =
        stream->Write(request) && stream->Read(&response) && response.id() == lease;
    if (answered) {
      context.TryCancel();  // one beat a call: etcd would keep the stream open
      stream->Finish();
      return absl::OkStatus();
    }
    const absl::Status ended = member.kv.peer.Explain(stream->Finish(), {});
    return ended.ok() ? absl::UnavailableError("etcd ended a keep-alive without an answer") : ended;
  });
  if (!status.ok()) return status;
  return absl::Seconds(response.ttl());
}

absl::Status EtcdStub::Revoke(int64_t lease) {
  pb::LeaseRevokeRequest request;
  request.set_id(lease);
  return impl_->Ask([&](Impl::Member& member) {
    grpc::ClientContext context;
    member.kv.peer.Prepare(context, {});
    pb::LeaseRevokeResponse response;
    return member.kv.peer.Explain(member.lease->LeaseRevoke(&context, request, &response), {});
  });
}

}  // namespace muond
