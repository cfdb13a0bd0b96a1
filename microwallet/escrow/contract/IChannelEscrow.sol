// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title Escrow of unidirectional payment channels
/// @notice A payer locks a deposit for one payee, then signs vouchers off-chain. Each voucher carries the total
/// authorized so far. The payee hands the best one to this contract, which pays the payee and refunds the payer.
/// @dev Implements the channel escrow contract of draft-evm-session-00 ("Channel Escrow Contract" and the EIP-3009 and
/// payee-initiated functions of "Relayed / Gasless Operations Profile") with these differences:
/// - After opening, calls carry the channel's descriptor in calldata. Only the channel's state is stored, in one slot.
/// - Amounts are stored as uint96; a larger deposit is refused with {DepositOverflow}.
/// - {settle} and {close} take a capture amount beside the voucher's cumulative amount, and a payee authorization signs
///   it too. A voucher may exceed the deposit; what is captured may not.
/// - The zero address as `token` is the chain's native coin.
/// - A top-up by authorization can only come from the channel's payer.
///
/// Units: every amount is in base units of the channel's token (wei for the native coin), every time in Unix seconds.
///
/// Signatures: 65 bytes `r || s || v` with v 27 or 28 and low s, over the EIP-712 digest in {domainSeparator}'s domain
/// (name "EVM Payment Channel", version "1"). They are tried as ECDSA first. Only when that does not give the expected
/// signer, and the signer has code, is the signer asked by ERC-1271. So an account that later delegates to code
/// (EIP-7702) keeps its earlier signatures valid. Signed types:
/// - `Voucher(bytes32 channelId,uint128 cumulativeAmount)`, by the channel's authorized signer;
/// - `SettleAuthorization` and `CloseAuthorization`, both with the members
///   `(bytes32 channelId,uint128 cumulativeAmount,uint128 captureAmount,uint256 nonce,uint256 deadline)`, by the payee.
///
/// Tokens: each deposit must arrive in full, measured by balance, or the call reverts. Tokens that change balances on
/// their own (rebasing), or take more than the amount from the sender of a transfer, are unsupported: they can leave
/// the escrow with less of that token than its channels hold. Other tokens are never affected.
interface IChannelEscrow {
    /// @notice What identifies a channel, and never changes.
    /// @param payer Who deposits, and is refunded.
    /// @param payee Who is paid.
    /// @param token The ERC-20 token, or the zero address for the native coin.
    /// @param salt Makes the channel id unique; take a fresh random value for each channel.
    /// @param authorizedSigner Who signs vouchers; the zero address means the payer.
    struct ChannelDescriptor {
        address payer;
        address payee;
        address token;
        bytes32 salt;
        address authorizedSigner;
    }

    /// @notice What a channel stores: one slot, kept for ever.
    /// @param deposit Total deposited so far. A channel exists when this is not zero.
    /// @param settled Total paid to the payee so far; never falls, never exceeds `deposit`.
    /// @param closeRequestedAt When the payer requested a close; zero when none is pending. Means nothing once
    /// finalized.
    /// @param finalized Whether the channel is closed. Never cleared, so a channel id is never used twice.
    struct ChannelState {
        uint96 deposit;
        uint96 settled;
        uint56 closeRequestedAt;
        bool finalized;
    }

    /// @notice One item of a batch: the channel, its best voucher, and how much of it the payee takes.
    /// @param channel The channel.
    /// @param cumulativeAmount The voucher's cumulative amount.
    /// @param captureAmount The channel's new settled total, at most `cumulativeAmount`.
    /// @param signature The voucher's signature.
    struct Capture {
        ChannelDescriptor channel;
        uint128 cumulativeAmount;
        uint128 captureAmount;
        bytes signature;
    }

    /// @notice A channel was opened. Holds the whole descriptor, so it can be rebuilt from the chain.
    /// @param deposit The deposit.
    event ChannelOpened(
        bytes32 indexed channelId,
        address indexed payer,
        address indexed payee,
        address token,
        bytes32 salt,
        address authorizedSigner,
        uint256 deposit
    );

    /// @notice A channel's deposit grew.
    /// @param additionalDeposit What was added.
    /// @param deposit The new total.
    event TopUp(
        bytes32 indexed channelId,
        address indexed payer,
        address indexed payee,
        uint256 additionalDeposit,
        uint256 deposit
    );

    /// @notice The payee was paid and the channel stays open.
    /// @param captured What was paid now.
    /// @param settled The new total.
    event Settled(
        bytes32 indexed channelId, address indexed payer, address indexed payee, uint256 captured, uint256 settled
    );

    /// @notice The payer started the grace period.
    /// @param withdrawableAt First second at which {withdraw} succeeds.
    event CloseRequested(
        bytes32 indexed channelId, address indexed payer, address indexed payee, uint256 withdrawableAt
    );

    /// @notice A top-up cancelled the pending close request.
    event CloseRequestCancelled(bytes32 indexed channelId, address indexed payer, address indexed payee);

    /// @notice The channel is finalized, by {close} or by {withdraw}.
    /// @param settled Total paid to the payee over the channel's life, this call included.
    /// @param refunded What the payer got back now: deposit - settled.
    event ChannelClosed(
        bytes32 indexed channelId, address indexed payer, address indexed payee, uint256 settled, uint256 refunded
    );

    /// @notice The channel id was used before; open, closing and finalized channels alike. Take another salt.
    error ChannelAlreadyExists(bytes32 channelId);

    /// @notice No channel was ever opened with this descriptor on this escrow and chain.
    error ChannelNotFound(bytes32 channelId);

    /// @notice The channel is closed for ever.
    error ChannelFinalized(bytes32 channelId);

    /// @notice Only the channel's payee may call this.
    error NotPayee(address caller, address payee);

    /// @notice Only the channel's payer may call this.
    error NotPayer(address caller, address payer);

    /// @notice The payee is the zero address.
    error InvalidPayee(address payee);

    /// @notice The native coin (zero address) where only an ERC-20 will do: with an authorization or a permit.
    error InvalidToken(address token);

    /// @notice The native coin sent with the call is not the amount: `expected` is zero for an ERC-20 channel.
    error InvalidValue(uint256 value, uint256 expected);

    /// @notice A deposit or top-up of nothing.
    error ZeroDeposit();

    /// @notice The channel's total deposit would not fit in uint96.
    error DepositOverflow(uint256 deposit);

    /// @notice What arrived, measured by the escrow's balance, is not the amount: a token that takes a fee, or none.
    error DepositNotReceived(address token, uint256 received, uint256 expected);

    /// @notice The capture amount does not pass (settle) or is below (close) what is settled already.
    error AmountNotIncreasing(uint256 captureAmount, uint256 settled);

    /// @notice The capture amount is more than the voucher authorizes.
    error CaptureAmountInvalid(uint256 captureAmount, uint256 cumulativeAmount);

    /// @notice The capture amount is more than the channel holds.
    error AmountExceedsDeposit(uint256 captureAmount, uint256 deposit);

    /// @notice The signature over `digest` is not `signer`'s: malformed, high s, other signer, or refused by ERC-1271.
    error InvalidSignature(address signer, bytes32 digest);

    /// @notice The EIP-3009 nonce is not the one derived from the channel's parameters.
    error NonceMismatch(bytes32 nonce, bytes32 expectedNonce);

    /// @notice The nonce of a payee authorization was used on this channel before.
    error NonceAlreadyUsed(bytes32 channelId, uint256 nonce);

    /// @notice The deadline of a payee authorization has passed.
    error AuthorizationExpired(uint256 deadline);

    /// @notice The grace period is not over: `withdrawableAt` is when it will be, zero when no close was requested.
    error CloseNotReady(uint256 withdrawableAt);

    /// @notice Opens a channel from the caller, who becomes the payer, with funds the escrow is allowed to pull, or
    /// with native coin sent along. Draft: "open".
    /// @dev For an ERC-20 the escrow needs an allowance of `deposit`, and no value may be sent; for the native coin the
    /// value must equal `deposit`.
    /// Reverts with {InvalidPayee}, {ZeroDeposit}, {DepositOverflow}, {ChannelAlreadyExists}, {InvalidValue},
    /// {DepositNotReceived}, the token's own error, or without a reason when `token` is no token.
    /// @param payee Who is paid.
    /// @param token The ERC-20 token, or the zero address for the native coin.
    /// @param deposit The amount to lock.
    /// @param salt A fresh random value.
    /// @param authorizedSigner Who signs vouchers; the zero address means the payer.
    /// @return channelId The new channel's id, as {computeChannelId} gives it.
    function open(address payee, address token, uint128 deposit, bytes32 salt, address authorizedSigner)
        external
        payable
        returns (bytes32 channelId);

    /// @notice Opens a channel for `from` with an EIP-3009 authorization; anyone may submit it. Draft:
    /// "openWithAuthorization" and "Front-Running Protection".
    /// @dev The token must have `receiveWithAuthorization` with a `bytes` signature. What `from` signs names this
    /// escrow as `to` and `deposit` as `value`. The nonce binds the channel, so no one can open another one with it.
    /// Reverts with {NonceMismatch}, {InvalidPayee}, {ZeroDeposit}, {DepositOverflow}, {ChannelAlreadyExists},
    /// {InvalidToken}, {DepositNotReceived}, or the token's own error.
    /// @param from The payer.
    /// @param validAfter The authorization is valid after this time.
    /// @param validBefore The authorization is valid before this time.
    /// @param nonce Must be keccak256(abi.encode(from, payee, token, salt, authorizedSigner)).
    /// @param signature The payer's EIP-3009 signature, passed on to the token.
    function openWithAuthorization(
        address payee,
        address token,
        uint128 deposit,
        bytes32 salt,
        address authorizedSigner,
        address from,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external returns (bytes32 channelId);

    /// @notice Opens a channel from the caller, setting the allowance in the same transaction by an EIP-2612 permit.
    /// @dev Only the payer can call it: a permit binds no payee. A permit that fails is ignored (someone may have
    /// submitted it first); what counts is that the allowance is there. The permit's value must be `deposit`.
    /// Reverts like {open}, or with {InvalidToken}.
    function openWithPermit(
        address payee,
        address token,
        uint128 deposit,
        bytes32 salt,
        address authorizedSigner,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external returns (bytes32 channelId);

    /// @notice Adds to the caller's channel and cancels a pending close request. Draft: "topUp".
    /// @dev Allowance and value as for {open}. Reverts with {NotPayer}, {ChannelNotFound}, {ChannelFinalized},
    /// {ZeroDeposit}, {DepositOverflow}, {InvalidValue}, {DepositNotReceived}, or the token's own error.
    /// @param additionalDeposit What to add.
    function topUp(ChannelDescriptor calldata channel, uint128 additionalDeposit) external payable;

    /// @notice Adds to a channel by its payer's EIP-3009 authorization; anyone may submit it. Draft:
    /// "topUpWithAuthorization" and "Front-Running Protection".
    /// @dev The funds always come from the channel's payer: if others could top up, a payee could cancel the payer's
    /// close request for ever with dust. An authorization that is not submitted can still cancel a later close request
    /// until `validBefore`, so it should be short. Reverts like {topUp} without {NotPayer}, or with {NonceMismatch} or
    /// {InvalidToken}.
    /// @param topUpSalt A fresh random value.
    /// @param nonce Must be keccak256(abi.encode(channelId, additionalDeposit, payer, topUpSalt)).
    /// @param signature The payer's EIP-3009 signature, passed on to the token.
    function topUpWithAuthorization(
        ChannelDescriptor calldata channel,
        uint128 additionalDeposit,
        bytes32 topUpSalt,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;

    /// @notice Adds to the caller's channel, setting the allowance in the same transaction by an EIP-2612 permit.
    /// @dev As {openWithPermit}. Reverts like {topUp}, or with {InvalidToken}.
    function topUpWithPermit(
        ChannelDescriptor calldata channel,
        uint128 additionalDeposit,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;

    /// @notice Pays the payee `captureAmount` less what is settled already; the channel stays open. Draft: "settle".
    /// @dev Needs settled < captureAmount <= cumulativeAmount and captureAmount <= deposit. Possible until the channel
    /// is finalized, during and after the grace period too. Reverts with {NotPayee}, {ChannelNotFound},
    /// {ChannelFinalized}, {AmountNotIncreasing}, {CaptureAmountInvalid}, {AmountExceedsDeposit}, {InvalidSignature},
    /// or the token's own error.
    /// @param cumulativeAmount The voucher's cumulative amount; it may exceed the deposit.
    /// @param captureAmount The channel's new settled total.
    /// @param signature The voucher's signature.
    function settle(
        ChannelDescriptor calldata channel,
        uint128 cumulativeAmount,
        uint128 captureAmount,
        bytes calldata signature
    ) external;

    /// @notice Pays the payee as {settle}, refunds the rest of the deposit to the payer, and finalizes. Draft: "close".
    /// @dev Needs settled <= captureAmount <= cumulativeAmount and captureAmount <= deposit. When captureAmount equals
    /// settled nothing is paid to the payee and the signature is not looked at: it may be empty. If the refund cannot
    /// be delivered the call reverts, and {settle} still pays the payee. Reverts like {settle}.
    function close(
        ChannelDescriptor calldata channel,
        uint128 cumulativeAmount,
        uint128 captureAmount,
        bytes calldata signature
    ) external;

    /// @notice {settle} by the payee's signed authorization; anyone may submit it. Draft: "Payee-initiated functions".
    /// @dev Reverts like {settle} without {NotPayee}, or with {AuthorizationExpired}, {NonceAlreadyUsed},
    /// {InvalidSignature} (the payee's).
    /// @param nonce Any number not used on this channel before, by settle and close authorizations together.
    /// @param deadline Last second at which the authorization is valid.
    /// @param payeeSignature The payee's signature over a `SettleAuthorization`.
    /// @param voucherSignature The voucher's signature.
    function settleWithAuthorization(
        ChannelDescriptor calldata channel,
        uint128 cumulativeAmount,
        uint128 captureAmount,
        uint256 nonce,
        uint256 deadline,
        bytes calldata payeeSignature,
        bytes calldata voucherSignature
    ) external;

    /// @notice {close} by the payee's signed authorization; anyone may submit it. Draft: "Payee-initiated functions".
    /// @dev As {settleWithAuthorization}, with a `CloseAuthorization`. Reverts like {close} without {NotPayee}, or with
    /// {AuthorizationExpired}, {NonceAlreadyUsed}, {InvalidSignature} (the payee's).
    function closeWithAuthorization(
        ChannelDescriptor calldata channel,
        uint128 cumulativeAmount,
        uint128 captureAmount,
        uint256 nonce,
        uint256 deadline,
        bytes calldata payeeSignature,
        bytes calldata voucherSignature
    ) external;

    /// @notice {settle} for many channels of the caller. Neighbours with the same token are paid by one transfer, so
    /// sort by token.
    /// @dev One bad item reverts the whole batch: simulate it first and leave bad items out. Reverts like {settle}.
    function settleBatch(Capture[] calldata captures) external;

    /// @notice {close} for many channels of the caller, each payer refunded. Otherwise as {settleBatch}.
    function closeBatch(Capture[] calldata captures) external;

    /// @notice Starts the grace period, in which the payee can still settle or close. Draft: "requestClose".
    /// @dev When one is pending already nothing happens: the first time stands, so the payer cannot delay and a
    /// repeated transaction does no harm. Reverts with {NotPayer}, {ChannelNotFound}, {ChannelFinalized}.
    function requestClose(ChannelDescriptor calldata channel) external;

    /// @notice Refunds the unsettled rest to the payer after the grace period, and finalizes. Draft: "withdraw".
    /// @dev Possible from {CLOSE_GRACE_PERIOD} seconds after the request, that second included. Reverts with
    /// {NotPayer}, {ChannelNotFound}, {ChannelFinalized}, {CloseNotReady}, or the token's own error.
    function withdraw(ChannelDescriptor calldata channel) external;

    /// @notice Seconds between {requestClose} and {withdraw}: 900.
    function CLOSE_GRACE_PERIOD() external view returns (uint256);

    /// @notice The id of a channel on this escrow and chain, opened or not. Draft: "Channel State".
    /// @return channelId keccak256(abi.encode(payer, payee, token, salt, authorizedSigner, escrow, chainId)).
    function computeChannelId(address payer, address payee, address token, bytes32 salt, address authorizedSigner)
        external
        view
        returns (bytes32 channelId);

    /// @notice What a channel stores; all zero when it does not exist.
    function getChannel(bytes32 channelId) external view returns (ChannelState memory state);

    /// @notice {getChannel} for many, in the same order.
    function getChannels(bytes32[] calldata channelIds) external view returns (ChannelState[] memory states);

    /// @notice Whether a payee authorization with this nonce was used on this channel.
    function isNonceUsed(bytes32 channelId, uint256 nonce) external view returns (bool used);

    /// @notice The EIP-712 digest an authorized signer signs. Draft: "Voucher Signing Format".
    function getVoucherDigest(bytes32 channelId, uint128 cumulativeAmount) external view returns (bytes32 digest);

    /// @notice The EIP-712 domain separator on this chain.
    function domainSeparator() external view returns (bytes32);
}
