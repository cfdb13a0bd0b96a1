// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {IChannelEscrow} from "./IChannelEscrow.sol";

/// @notice The overload of EIP-3009's `receiveWithAuthorization` that takes a packed signature.
interface IReceiveWithAuthorization {
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;
}

/// @title ChannelEscrow
/// @notice See {IChannelEscrow} for what each call does.
/// @dev Every call checks, then writes the channel's state, then moves money. There is no owner, no upgrade and no
/// constructor argument. The EIP-712 domain is computed at each use from `block.chainid` and this address instead of
/// inherited from OpenZeppelin's EIP712, which keeps them as immutables: without immutables the deployed code is the
/// same on every chain and can be compared byte for byte.
contract ChannelEscrow is IChannelEscrow, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// @inheritdoc IChannelEscrow
    uint256 public constant CLOSE_GRACE_PERIOD = 15 minutes;

    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant DOMAIN_NAME_HASH = keccak256("EVM Payment Channel");
    bytes32 private constant DOMAIN_VERSION_HASH = keccak256("1");
    bytes32 private constant VOUCHER_TYPEHASH = keccak256("Voucher(bytes32 channelId,uint128 cumulativeAmount)");
    bytes32 private constant SETTLE_AUTHORIZATION_TYPEHASH = keccak256(
        "SettleAuthorization(bytes32 channelId,uint128 cumulativeAmount,uint128 captureAmount,uint256 nonce,uint256 deadline)"
    );
    bytes32 private constant CLOSE_AUTHORIZATION_TYPEHASH = keccak256(
        "CloseAuthorization(bytes32 channelId,uint128 cumulativeAmount,uint128 captureAmount,uint256 nonce,uint256 deadline)"
    );

    mapping(bytes32 channelId => ChannelState) private _channels;
    mapping(bytes32 channelId => mapping(uint256 nonce => bool)) private _usedNonces;

    modifier onlyPayer(ChannelDescriptor calldata channel) {
        if (msg.sender != channel.payer) revert NotPayer(msg.sender, channel.payer);
        _;
    }

    modifier onlyPayee(ChannelDescriptor calldata channel) {
        if (msg.sender != channel.payee) revert NotPayee(msg.sender, channel.payee);
        _;
    }

    /// @dev Around a pull of an ERC-20: exactly `amount` must arrive, whatever the token claims.
    modifier mustReceive(address token, uint256 amount) {
        if (token.code.length == 0) revert InvalidToken(token);
        uint256 expectedBalance = IERC20(token).balanceOf(address(this)) + amount;
        _;
        uint256 balance = IERC20(token).balanceOf(address(this));
        if (balance != expectedBalance) revert DepositNotReceived(token, balance, expectedBalance);
    }

    // ------------------------------------------------------------------------------------------- open (payer)

    /// @inheritdoc IChannelEscrow
    function open(address payee, address token, uint128 deposit, bytes32 salt, address authorizedSigner)
        external
        payable
        nonReentrant
        returns (bytes32 channelId)
    {
        channelId = _open(msg.sender, payee, token, deposit, salt, authorizedSigner);
        _collect(token, deposit);
    }

    /// @inheritdoc IChannelEscrow
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
    ) external nonReentrant returns (bytes32 channelId) {
        _checkNonce(nonce, keccak256(abi.encode(from, payee, token, salt, authorizedSigner)));
        channelId = _open(from, payee, token, deposit, salt, authorizedSigner);
        _collectWithAuthorization(token, from, deposit, validAfter, validBefore, nonce, signature);
    }

    /// @inheritdoc IChannelEscrow
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
    ) external nonReentrant returns (bytes32 channelId) {
        channelId = _open(msg.sender, payee, token, deposit, salt, authorizedSigner);
        _collectWithPermit(token, deposit, deadline, v, r, s);
    }

    // ----------------------------------------------------------------------------------------- top up (payer)

    /// @inheritdoc IChannelEscrow
    function topUp(ChannelDescriptor calldata channel, uint128 additionalDeposit)
        external
        payable
        nonReentrant
        onlyPayer(channel)
    {
        _topUp(_idOf(channel), channel, additionalDeposit);
        _collect(channel.token, additionalDeposit);
    }

    /// @inheritdoc IChannelEscrow
    function topUpWithAuthorization(
        ChannelDescriptor calldata channel,
        uint128 additionalDeposit,
        bytes32 topUpSalt,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external nonReentrant {
        bytes32 channelId = _idOf(channel);
        _checkNonce(nonce, keccak256(abi.encode(channelId, additionalDeposit, channel.payer, topUpSalt)));
        _topUp(channelId, channel, additionalDeposit);
        _collectWithAuthorization(
            channel.token, channel.payer, additionalDeposit, validAfter, validBefore, nonce, signature
        );
    }

    /// @inheritdoc IChannelEscrow
    function topUpWithPermit(
        ChannelDescriptor calldata channel,
        uint128 additionalDeposit,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external nonReentrant onlyPayer(channel) {
        _topUp(_idOf(channel), channel, additionalDeposit);
        _collectWithPermit(channel.token, additionalDeposit, deadline, v, r, s);
    }

    // -------------------------------------------------------------------------------- settle and close (payee)

    /// @inheritdoc IChannelEscrow
    function settle(
        ChannelDescriptor calldata channel,
        uint128 cumulativeAmount,
        uint128 captureAmount,
        bytes calldata signature
    ) external nonReentrant onlyPayee(channel) {
        uint256 captured = _settle(_idOf(channel), channel, cumulativeAmount, captureAmount, signature);
        _pay(channel.token, channel.payee, captured);
    }

    /// @inheritdoc IChannelEscrow
    function close(
        ChannelDescriptor calldata channel,
        uint128 cumulativeAmount,
        uint128 captureAmount,
        bytes calldata signature
    ) external nonReentrant onlyPayee(channel) {
        (uint256 captured, uint256 refund) = _close(_idOf(channel), channel, cumulativeAmount, captureAmount, signature);
        _pay(channel.token, channel.payee, captured);
        _pay(channel.token, channel.payer, refund);
    }

    /// @inheritdoc IChannelEscrow
    function settleWithAuthorization(
        ChannelDescriptor calldata channel,
        uint128 cumulativeAmount,
        uint128 captureAmount,
        uint256 nonce,
        uint256 deadline,
        bytes calldata payeeSignature,
        bytes calldata voucherSignature
    ) external nonReentrant {
        bytes32 channelId = _idOf(channel);
        bytes32 structHash = keccak256(
            abi.encode(SETTLE_AUTHORIZATION_TYPEHASH, channelId, cumulativeAmount, captureAmount, nonce, deadline)
        );
        _useAuthorization(channelId, channel.payee, nonce, deadline, structHash, payeeSignature);
        uint256 captured = _settle(channelId, channel, cumulativeAmount, captureAmount, voucherSignature);
        _pay(channel.token, channel.payee, captured);
    }

    /// @inheritdoc IChannelEscrow
    function closeWithAuthorization(
        ChannelDescriptor calldata channel,
        uint128 cumulativeAmount,
        uint128 captureAmount,
        uint256 nonce,
        uint256 deadline,
        bytes calldata payeeSignature,
        bytes calldata voucherSignature
    ) external nonReentrant {
        bytes32 channelId = _idOf(channel);
        bytes32 structHash = keccak256(
            abi.encode(CLOSE_AUTHORIZATION_TYPEHASH, channelId, cumulativeAmount, captureAmount, nonce, deadline)
        );
        _useAuthorization(channelId, channel.payee, nonce, deadline, structHash, payeeSignature);
        (uint256 captured, uint256 refund) =
            _close(channelId, channel, cumulativeAmount, captureAmount, voucherSignature);
        _pay(channel.token, channel.payee, captured);
        _pay(channel.token, channel.payer, refund);
    }

    /// @inheritdoc IChannelEscrow
    function settleBatch(Capture[] calldata captures) external nonReentrant {
        address token;
        uint256 owed;
        for (uint256 i = 0; i < captures.length; ++i) {
            if (captures[i].channel.token != token) {
                _pay(token, msg.sender, owed);
                (token, owed) = (captures[i].channel.token, 0);
            }
            owed += _settleItem(captures[i]);
        }
        _pay(token, msg.sender, owed);
    }

    /// @inheritdoc IChannelEscrow
    function closeBatch(Capture[] calldata captures) external nonReentrant {
        address token;
        uint256 owed;
        for (uint256 i = 0; i < captures.length; ++i) {
            if (captures[i].channel.token != token) {
                _pay(token, msg.sender, owed);
                (token, owed) = (captures[i].channel.token, 0);
            }
            (uint256 captured, uint256 refund) = _closeItem(captures[i]);
            owed += captured;
            _pay(token, captures[i].channel.payer, refund);
        }
        _pay(token, msg.sender, owed);
    }

    // ------------------------------------------------------------------------- request close, withdraw (payer)

    /// @inheritdoc IChannelEscrow
    function requestClose(ChannelDescriptor calldata channel) external nonReentrant onlyPayer(channel) {
        bytes32 channelId = _idOf(channel);
        ChannelState memory state = _loadOpen(channelId);
        if (state.closeRequestedAt != 0) return;
        state.closeRequestedAt = uint56(block.timestamp);
        _channels[channelId] = state;
        emit CloseRequested(channelId, channel.payer, channel.payee, block.timestamp + CLOSE_GRACE_PERIOD);
    }

    /// @inheritdoc IChannelEscrow
    function withdraw(ChannelDescriptor calldata channel) external nonReentrant onlyPayer(channel) {
        bytes32 channelId = _idOf(channel);
        ChannelState memory state = _loadOpen(channelId);
        if (state.closeRequestedAt == 0) revert CloseNotReady(0);
        uint256 withdrawableAt = state.closeRequestedAt + CLOSE_GRACE_PERIOD;
        if (block.timestamp < withdrawableAt) revert CloseNotReady(withdrawableAt);
        uint256 refund = _finalize(channelId, channel, state);
        _pay(channel.token, channel.payer, refund);
    }

    // ---------------------------------------------------------------------------------------------------- views

    /// @inheritdoc IChannelEscrow
    function computeChannelId(address payer, address payee, address token, bytes32 salt, address authorizedSigner)
        public
        view
        returns (bytes32 channelId)
    {
        return keccak256(abi.encode(payer, payee, token, salt, authorizedSigner, address(this), block.chainid));
    }

    /// @inheritdoc IChannelEscrow
    function getChannel(bytes32 channelId) external view returns (ChannelState memory state) {
        return _channels[channelId];
    }

    /// @inheritdoc IChannelEscrow
    function getChannels(bytes32[] calldata channelIds) external view returns (ChannelState[] memory states) {
        states = new ChannelState[](channelIds.length);
        for (uint256 i = 0; i < channelIds.length; ++i) {
            states[i] = _channels[channelIds[i]];
        }
    }

    /// @inheritdoc IChannelEscrow
    function isNonceUsed(bytes32 channelId, uint256 nonce) external view returns (bool used) {
        return _usedNonces[channelId][nonce];
    }

    /// @inheritdoc IChannelEscrow
    function getVoucherDigest(bytes32 channelId, uint128 cumulativeAmount) public view returns (bytes32 digest) {
        bytes32 structHash = keccak256(abi.encode(VOUCHER_TYPEHASH, channelId, cumulativeAmount));
        return MessageHashUtils.toTypedDataHash(domainSeparator(), structHash);
    }

    /// @inheritdoc IChannelEscrow
    function domainSeparator() public view returns (bytes32) {
        return
            keccak256(abi.encode(DOMAIN_TYPEHASH, DOMAIN_NAME_HASH, DOMAIN_VERSION_HASH, block.chainid, address(this)));
    }

    // ------------------------------------------------------------------- what calls have in common: the channel

    function _idOf(ChannelDescriptor calldata channel) private view returns (bytes32) {
        return computeChannelId(channel.payer, channel.payee, channel.token, channel.salt, channel.authorizedSigner);
    }

    function _loadOpen(bytes32 channelId) private view returns (ChannelState memory state) {
        state = _channels[channelId];
        if (state.deposit == 0) revert ChannelNotFound(channelId);
        if (state.finalized) revert ChannelFinalized(channelId);
    }

    function _open(address payer, address payee, address token, uint256 deposit, bytes32 salt, address authorizedSigner)
        private
        returns (bytes32 channelId)
    {
        if (payee == address(0) || payee == address(this)) revert InvalidPayee(payee);
        if (deposit == 0) revert ZeroDeposit();
        if (deposit > type(uint96).max) revert DepositOverflow(deposit);
        channelId = computeChannelId(payer, payee, token, salt, authorizedSigner);
        if (_channels[channelId].deposit != 0) revert ChannelAlreadyExists(channelId);
        _channels[channelId].deposit = uint96(deposit);
        emit ChannelOpened(channelId, payer, payee, token, salt, authorizedSigner, deposit);
    }

    function _topUp(bytes32 channelId, ChannelDescriptor calldata channel, uint256 additionalDeposit) private {
        ChannelState memory state = _loadOpen(channelId);
        if (additionalDeposit == 0) revert ZeroDeposit();
        uint256 deposit = state.deposit + additionalDeposit;
        if (deposit > type(uint96).max) revert DepositOverflow(deposit);
        if (state.closeRequestedAt != 0) emit CloseRequestCancelled(channelId, channel.payer, channel.payee);
        state.deposit = uint96(deposit);
        state.closeRequestedAt = 0;
        _channels[channelId] = state;
        emit TopUp(channelId, channel.payer, channel.payee, additionalDeposit, deposit);
    }

    function _settle(
        bytes32 channelId,
        ChannelDescriptor calldata channel,
        uint256 cumulativeAmount,
        uint256 captureAmount,
        bytes calldata signature
    ) private returns (uint256 captured) {
        ChannelState memory state = _loadOpen(channelId);
        if (captureAmount <= state.settled) revert AmountNotIncreasing(captureAmount, state.settled);
        captured = _capture(channelId, channel, state, cumulativeAmount, captureAmount, signature);
        _channels[channelId] = state;
        emit Settled(channelId, channel.payer, channel.payee, captured, captureAmount);
    }

    function _close(
        bytes32 channelId,
        ChannelDescriptor calldata channel,
        uint256 cumulativeAmount,
        uint256 captureAmount,
        bytes calldata signature
    ) private returns (uint256 captured, uint256 refund) {
        ChannelState memory state = _loadOpen(channelId);
        if (captureAmount < state.settled) revert AmountNotIncreasing(captureAmount, state.settled);
        captured = _capture(channelId, channel, state, cumulativeAmount, captureAmount, signature);
        refund = _finalize(channelId, channel, state);
    }

    function _settleItem(Capture calldata item) private onlyPayee(item.channel) returns (uint256 captured) {
        return _settle(_idOf(item.channel), item.channel, item.cumulativeAmount, item.captureAmount, item.signature);
    }

    function _closeItem(Capture calldata item)
        private
        onlyPayee(item.channel)
        returns (uint256 captured, uint256 refund)
    {
        return _close(_idOf(item.channel), item.channel, item.cumulativeAmount, item.captureAmount, item.signature);
    }

    /// @dev Raises `state.settled` to `captureAmount`; the caller stores the state. Whether `captureAmount` may equal
    /// what is settled is the caller's rule; when it does, nothing is taken and no voucher is needed.
    function _capture(
        bytes32 channelId,
        ChannelDescriptor calldata channel,
        ChannelState memory state,
        uint256 cumulativeAmount,
        uint256 captureAmount,
        bytes calldata signature
    ) private view returns (uint256 captured) {
        if (captureAmount > cumulativeAmount) {
            revert CaptureAmountInvalid(captureAmount, cumulativeAmount);
        }
        if (captureAmount > state.deposit) revert AmountExceedsDeposit(captureAmount, state.deposit);
        captured = captureAmount - state.settled;
        if (captured == 0) return 0;
        address signer = channel.authorizedSigner == address(0) ? channel.payer : channel.authorizedSigner;
        _checkSignature(signer, getVoucherDigest(channelId, uint128(cumulativeAmount)), signature);
        state.settled = uint96(captureAmount);
    }

    function _finalize(bytes32 channelId, ChannelDescriptor calldata channel, ChannelState memory state)
        private
        returns (uint256 refund)
    {
        refund = state.deposit - state.settled;
        state.finalized = true;
        _channels[channelId] = state;
        emit ChannelClosed(channelId, channel.payer, channel.payee, state.settled, refund);
    }

    // ------------------------------------------------------------- what calls have in common: signatures, money

    function _checkNonce(bytes32 nonce, bytes32 expectedNonce) private pure {
        if (nonce != expectedNonce) revert NonceMismatch(nonce, expectedNonce);
    }

    function _useAuthorization(
        bytes32 channelId,
        address payee,
        uint256 nonce,
        uint256 deadline,
        bytes32 structHash,
        bytes calldata signature
    ) private {
        if (block.timestamp > deadline) revert AuthorizationExpired(deadline);
        if (_usedNonces[channelId][nonce]) revert NonceAlreadyUsed(channelId, nonce);
        _checkSignature(payee, MessageHashUtils.toTypedDataHash(domainSeparator(), structHash), signature);
        _usedNonces[channelId][nonce] = true;
    }

    /// @dev ECDSA first, so that code set on an account later (EIP-7702) cannot void what it signed before.
    function _checkSignature(address signer, bytes32 digest, bytes calldata signature) private view {
        (address recovered, ECDSA.RecoverError err,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (err == ECDSA.RecoverError.NoError && recovered == signer) return;
        if (signer.code.length == 0) revert InvalidSignature(signer, digest);
        bool valid = SignatureChecker.isValidERC1271SignatureNowCalldata(signer, digest, signature);
        if (!valid) revert InvalidSignature(signer, digest);
    }

    function _collect(address token, uint256 amount) private {
        uint256 expectedValue = token == address(0) ? amount : 0;
        if (msg.value != expectedValue) revert InvalidValue(msg.value, expectedValue);
        if (token != address(0)) _collectFromCaller(token, amount);
    }

    function _collectFromCaller(address token, uint256 amount) private mustReceive(token, amount) {
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @dev A failed permit is no error: someone may have submitted it first, and then the allowance is there.
    function _collectWithPermit(address token, uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        private
    {
        if (token.code.length == 0) revert InvalidToken(token);
        try IERC20Permit(token).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
        _collectFromCaller(token, amount);
    }

    function _collectWithAuthorization(
        address token,
        address from,
        uint256 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) private mustReceive(token, amount) {
        IReceiveWithAuthorization(token)
            .receiveWithAuthorization(from, address(this), amount, validAfter, validBefore, nonce, signature);
    }

    function _pay(address token, address to, uint256 amount) private {
        if (amount == 0) return;
        if (token == address(0)) Address.sendValue(payable(to), amount);
        else IERC20(token).safeTransfer(to, amount);
    }
}
